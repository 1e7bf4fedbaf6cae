"""What a method sees of a slide: encoders, feature maps, colour and nuclei, stain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "appearance",
        "backbones",
        "description",
        "encoders",
        "maps",
        "pathology",
        "stain",
    ],
    submod_attrs={
        "appearance": ["mean_colour"],
        "backbones": ["coral_mobilenet"],
        "description": ["describe", "table"],
        "encoders": [
            "ImageEncoder",
            "fingerprint",
            "patch_vectors",
            "pooled_features",
            "raw_features",
        ],
        "stain": ["Macenko", "Reinhard", "Stain"],
    },
)
