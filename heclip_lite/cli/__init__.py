"""The command line: ``heclip-lite``, one file a command.

`command` holds what the commands share, `options` how they name sections.
Whatever is heavy is imported inside the commands, so that ``--help`` comes at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "check",
        "command",
        "config",
        "domains",
        "files",
        "judge",
        "methods",
        "options",
        "predict",
        "program",
        "results",
        "slide",
        "train",
    ],
    submod_attrs={
        "program": ["main"],
    },
)
