"""What the notebooks of the book share: chapters, exercises, answers, quizzes, explorers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "answers",
        "chapter",
        "controls",
        "exercises",
        "leakage",
        "model_widgets",
        "quiz",
        "slide_widgets",
        "spaceranger",
        "widgets",
    ],
    submod_attrs={
        "chapter": ["Chapter", "DATASETS", "Dataset", "PROFILES", "Profile", "published", "start"],
    },
)
