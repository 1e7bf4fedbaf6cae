"""What every explorer is made of: controls, the figure they change, and what is said in between.

An explorer shows two things: its controls, and a figure that they change.
Where nothing answers the controls, as on a web page, the figure stands alone and still says
something; so it is an output of its own, which a live kernel draws anew in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from html import escape
from typing import TYPE_CHECKING, Any

from anndata import AnnData

from heclip_lite.data import sections

if TYPE_CHECKING:
    from ipywidgets import Widget
    from matplotlib.figure import Figure

_STYLE = {"description_width": "initial"}  # descriptions are shown whole


class Explorer:
    """Controls and the figure they change; a notebook shows both.

    Parameters
    ----------
    controls
        ipywidgets by name.
    draw
        Called with the controls' values by name; returns the figure.
        Raises a ``ValueError`` whose message is for the reader if a value makes no sense.

    Attributes
    ----------
    figure
        The figure of the last choice that made sense.
    """

    def __init__(self, controls: Mapping[str, Widget], draw: Callable[..., Figure]) -> None:
        import ipywidgets

        self.controls = dict(controls)
        self._draw = draw
        self._shown: list[Any] = []  # where the figure stands in the notebook
        # The line keeps its place when it is empty, so that the figure does not jump.
        self._note = ipywidgets.HTML(layout={"min_height": "2.2em"})
        self.box = ipywidgets.VBox([*self.controls.values(), self._note])
        self.figure = draw(**self.values)
        for control in self.controls.values():
            control.observe(self._update, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """What is chosen now."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def message(self) -> str:
        """What is wrong with the last choice; empty if nothing is."""
        return self._note.value

    def choose(self, **values: Any) -> None:
        """Set controls by name, as a reader would.

        Raises
        ------
        ValueError
            If there is no such control, it cannot take the value, or the value makes no sense.
        """
        from traitlets import TraitError

        for name, value in values.items():
            if name not in self.controls:
                raise ValueError(
                    f"There is no control {name!r}; there are {listed(self.controls)}."
                )
            control = self.controls[name]
            try:
                control.value = value
            except TraitError as error:
                offer = f"; choose one of {listed(_options(control))}" if _options(control) else ""
                raise ValueError(f"{control.description}: there is no {value!r}{offer}.") from error
        if self.message:
            self._draw(**self.values)  # raises what the message says

    def _update(self, _: Any = None) -> None:
        self._say("Drawing ...", "status")
        try:
            self.figure = self._draw(**self.values)
        except ValueError as error:
            self._say(str(error), "alert")
            return
        except Exception as error:
            self._say(f"This choice failed with {type(error).__name__}: {error}", "alert")
            raise
        self._note.value = ""
        for place in self._shown:
            place.update(self.figure)

    def _say(self, text: str, role: str) -> None:
        self._note.value = f'<span role="{role}">{escape(text)}</span>'

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)
        # The newest place is the one the reader looks at; older ones would only cost time.
        self._shown = [display(self.figure, display_id=True)]


def menu(description: str, options: Sequence[str] | Mapping[str, Any], value: Any = None) -> Widget:
    """A menu; the first option is chosen unless `value` is another one."""
    import ipywidgets

    chosen = {} if value is None else {"value": value}
    return ipywidgets.Dropdown(
        options=options,
        description=description,
        style=_STYLE,
        layout={"width": "auto", "max_width": "36em"},
        **chosen,
    )


def steps(description: str, options: Sequence[str]) -> Widget:
    """A slider over names; it draws when it is let go, or when an arrow key is pressed."""
    import ipywidgets

    return ipywidgets.SelectionSlider(
        options=options,
        description=description,
        continuous_update=False,
        style=_STYLE,
        layout={"width": "95%"},
    )


def numbers(description: str, value: int, low: int, high: int) -> Widget:
    """A slider over whole numbers from `low` to `high`."""
    import ipywidgets

    return ipywidgets.IntSlider(
        value=value,
        min=low,
        max=high,
        description=description,
        continuous_update=False,
        style=_STYLE,
        layout={"width": "95%"},
    )


def powers(description: str, value: float, low: float, high: float, step: float) -> Widget:
    """A slider over powers of ten, from ``10**low`` to ``10**high``."""
    import ipywidgets

    return ipywidgets.FloatLogSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        continuous_update=False,
        style=_STYLE,
        layout={"width": "95%"},
    )


def box(description: str) -> Widget:
    """A box to tick."""
    import ipywidgets

    return ipywidgets.Checkbox(
        value=False, description=description, indent=False, style=_STYLE, layout={"width": "auto"}
    )


def name_field(description: str, options: Sequence[str], value: str) -> Widget:
    """A field to type a name into, which offers the known ones."""
    import ipywidgets

    return ipywidgets.Combobox(
        value=value,
        options=list(options),
        ensure_option=False,
        continuous_update=False,
        description=description,
        style=_STYLE,
    )


def number_field(description: str, value: int) -> Widget:
    """A field to type a whole number into; arrow keys step."""
    import ipywidgets

    return ipywidgets.IntText(
        value=value, continuous_update=False, description=description, style=_STYLE
    )


def known_gene(name: str, of: Mapping[str, int]) -> int:
    """Column of a gene, in whatever case it was typed.

    Raises
    ------
    ValueError
        If there is no such gene; the message offers near names.
    """
    if name in of:
        return of[name]
    folded = {known.casefold(): known for known in of}
    if name.strip().casefold() in folded:
        return of[folded[name.strip().casefold()]]
    near = [folded[n] for n in get_close_matches(name.strip().casefold(), folded, n=3)]
    hint = f" Near names: {', '.join(near)}." if near else " Choose one from the list."
    raise ValueError(f"There is no gene {name!r} among the {len(of)} of this panel.{hint}")


def known_spot(spot: int, section: AnnData) -> int:
    """The spot's row.

    Raises
    ------
    ValueError
        If the section has no such spot.
    """
    if not 0 <= spot < section.n_obs:
        raise ValueError(
            f"There is no spot {spot} on section {sections.name_of(section)}: "
            f"choose 0 to {section.n_obs - 1}."
        )
    return spot


def listed(names: Iterable[Any], most: int = 12) -> str:
    """Names in one line; many are cut short."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _options(control: Widget) -> tuple:
    """What a menu or a slider over names offers; empty for other controls."""
    options = getattr(control, "options", ())
    return tuple(options.values() if isinstance(options, Mapping) else options)
