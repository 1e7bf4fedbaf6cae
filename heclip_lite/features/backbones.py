"""A pretrained backbone that anyone can make from one public file, without a model hub.

Google's Coral project publishes a MobileNetV2 trained on ImageNet, with its weights rounded to
8 bits, under the Apache licence.
It is brought back to floating point here; a little is lost in the rounding, so it is called
"dequantised" wherever it is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from heclip_lite import config, store
from heclip_lite.data.download import fetch

CORAL_ADDRESS = (
    "https://raw.githubusercontent.com/google-coral/test_data/"
    "104342d2d3480b3e66203073dac24f4e2dbb4c41/"
)
CORAL_FILE = "mobilenet_v2_1.0_224_quant.tflite"
CORAL_SHA256 = "7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776"
BN_EPS = 1e-3  # TensorFlow's, and so are its pads
OPTIONS = {"pad_type": "same", "bn_eps": BN_EPS}
_VERSION = 2  # raise it when the conversion changes


def coral_mobilenet() -> config.Encoder:
    """MobileNetV2 with ImageNet weights, dequantised from Coral's public file.

    The file is fetched once (13.9 MB or less) and converted once, into the cache folder.

    Returns
    -------
    Encoder
        timm's ``mobilenetv2_100`` with these weights, ready for
        :class:`heclip_lite.config.MapInput` and :class:`heclip_lite.config.PatchInput`.

    Raises
    ------
    FileNotFoundError
        If the file is not there and cannot be fetched.
    ValueError
        If it is another file than expected.
    """
    path = store.cache_dir() / "backbones" / f"coral-{CORAL_SHA256[:16]}-{_VERSION}.safetensors"
    if not path.exists():
        from safetensors.numpy import save_file

        (source,) = fetch(
            "coral-test_data",
            [CORAL_FILE],
            address=CORAL_ADDRESS,
            registry={CORAL_FILE: CORAL_SHA256},
        )
        state = unfolded(timm_state(read_tflite(source)), _tissue())
        with store.atomic_path(path) as temporary:
            save_file(state, temporary)
    return mobilenet(str(path))


def mobilenet(weights: str, name: str = "mobilenetv2_100") -> config.Encoder:
    """A MobileNetV2 whose weights come from TensorFlow: its pads, scaling and batch norm."""
    half = (0.5, 0.5, 0.5)
    return config.Encoder(name, weights, mean=half, std=half, fixed_norms=True, options=OPTIONS)


def dequantise(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Rounded whole numbers back to float32: ``scale * (values - zero_point)``."""
    return (np.float32(scale) * (values.astype(np.float32) - zero_point)).astype(np.float32)


def read_tflite(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of all convolutions of a TensorFlow Lite file, in order of execution.

    Returns
    -------
    list of (weight, bias)
        Weights (out, height, width, in), or (1, height, width, channels) if depthwise.
    """
    import tflite

    model = tflite.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    kinds = {tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D}
    found = []
    for number in range(graph.OperatorsLength()):
        step = graph.Operators(number)
        if model.OperatorCodes(step.OpcodeIndex()).BuiltinCode() in kinds:
            found.append(tuple(_tensor(model, graph, step.Inputs(i)) for i in (1, 2)))
    return found


def _tensor(model: Any, graph: Any, index: int) -> np.ndarray:
    import tflite

    tensor = graph.Tensors(index)
    kinds = {tflite.TensorType.UINT8: np.uint8, tflite.TensorType.INT32: np.int32}
    raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
    values = np.frombuffer(raw.tobytes(), kinds[tensor.Type()])
    how = tensor.Quantization()
    scale, zero_point = float(how.ScaleAsNumpy()[0]), int(how.ZeroPointAsNumpy()[0])
    return dequantise(values.reshape(tensor.ShapeAsNumpy()), scale, zero_point)


def timm_state(convolutions: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Parameters of timm's ``mobilenetv2_100``, by name, without the classifier.

    The file holds its batch norms folded into the convolutions; timm's are set to do nothing but
    add the bias.

    Raises
    ------
    ValueError
        If number or shapes of the convolutions do not fit.
    """
    import timm
    from torch import nn

    network = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0, **OPTIONS)
    modules = list(network.named_modules())
    wanted = [(n, m) for n, m in modules if isinstance(m, nn.Conv2d)]
    norms = [(n, m) for n, m in modules if isinstance(m, nn.BatchNorm2d)]
    if len(convolutions) not in (len(wanted), len(wanted) + 1):  # the last one may classify
        raise ValueError(
            f"The file holds {len(convolutions)} convolutions, but MobileNetV2 has {len(wanted)}; "
            f"give {CORAL_FILE} itself."
        )
    state = {}
    pairs = zip(wanted, norms, convolutions, strict=False)
    for (name, conv), (norm, _), (weight, bias) in pairs:
        order = (3, 0, 1, 2) if conv.groups > 1 else (0, 3, 1, 2)
        weight = np.ascontiguousarray(weight.transpose(order))
        if weight.shape != tuple(conv.weight.shape):
            raise ValueError(
                f"The convolution for {name} has shape {weight.shape}, but "
                f"{tuple(conv.weight.shape)} is needed; give {CORAL_FILE} itself."
            )
        one = np.ones(len(bias), dtype=np.float32)
        state |= {
            f"{name}.weight": weight,
            f"{norm}.weight": one,
            f"{norm}.bias": bias,
            f"{norm}.running_mean": 0 * one,
            f"{norm}.running_var": np.float32(1 - BN_EPS) * one,
        }
    return state


def unfolded(state: dict[str, np.ndarray], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The same function, with batch norms that have something to normalise.

    A network whose norms were folded away cannot be trained further: in training a norm takes the
    batch's own mean and deviation out, and nothing would put them back.
    So each norm gets the mean and deviation that its channels have on some images, and scale and
    shift that restore them.

    Parameters
    ----------
    state
        As :func:`timm_state` gives it.
    pixels
        uint8 (images, height, width, 3).
    """
    import timm
    import torch
    from torch import nn

    network = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0, **OPTIONS)
    wanted = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    network.load_state_dict(wanted, strict=False)
    network.double().eval()  # so that rounding to float32 gives the same bytes everywhere
    made = dict(state)

    def measure(name: str) -> Any:
        def hook(norm: nn.BatchNorm2d, given: tuple[torch.Tensor]) -> None:
            variance, mean = torch.var_mean(given[0], dim=(0, 2, 3), correction=0)
            found = {
                "running_mean": mean,
                "running_var": variance,
                "weight": torch.sqrt(variance + BN_EPS),
                "bias": norm.bias + mean,
            }
            made.update({f"{name}.{part}": v.float().numpy() for part, v in found.items()})

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(measure(name))
    with torch.inference_mode():
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 127.5 - 1
        network(scaled)
    return made


def _tissue() -> np.ndarray:
    """Tiles of the stained section that comes with scikit-image, uint8 (64, 64, 64, 3)."""
    from skimage import data

    image = data.immunohistochemistry()
    tiles = image.reshape(8, 64, 8, 64, 3).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(64, 64, 64, 3))
