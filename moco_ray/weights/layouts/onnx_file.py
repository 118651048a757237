"""ONNX: a backbone as a program for other runtimes."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings

import torch

from moco_ray.weights.layouts.layout import Layout, Source

OPSET = 18
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_BYTES = 2**31 - 1  # of a protobuf message


def _write(source: Source, suffix: str) -> dict[str, bytes]:
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"the layout onnx needs {', '.join(missing)}, not installed here: pip install 'moco_ray[export]'"
        )
    images = torch.zeros(2, 3, source.crop_px, source.crop_px)
    batch = torch.export.Dim("batch")
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecated parts
            program = torch.onnx.export(
                source.backbone,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except Exception as error:  # as many kinds as there are layers
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"PyTorch {torch.__version__} cannot write {source.model.arch} as ONNX ({first}); use another layout"
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    proto = program.model_proto
    for name in ("arch", "crop_px", "mean", "std", "step", "feature_dim"):
        value = source.info[name]
        proto.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    if proto.ByteSize() > _LARGEST_BYTES:
        raise ValueError(f"{source.model.arch} takes more than the 2 GiB of an ONNX file; use another layout")
    return {"": proto.SerializeToString()}


ONNX = Layout(
    name="onnx",
    suffixes=(".onnx",),
    write=_write,
    given=lambda source: {"opset": OPSET},
    # In two parts of unequal size: the batch is of any size.
    program="""
import onnx, onnxruntime
model = onnx.load(given["path"])
onnx.checker.check_model(model)
opset = {part.domain: part.version for part in model.opset_import}[""]
assert opset == given["opset"], f"its opset is {opset}"
session = onnxruntime.InferenceSession(given["path"], providers=["CPUExecutionProvider"])
parts = [session.run(["features"], {"images": part})[0] for part in (images[:1], images[1:])]
done(numpy.concatenate(parts), f"onnxruntime {onnxruntime.__version__}, opset {opset}, batches of any size")
""",
    hints=lambda source, place: [
        f"session = onnxruntime.InferenceSession({place!r})",
        'features = session.run(["features"], {"images": images})[0]  # float32 (N, 3, '
        + f"{source.crop_px}, {source.crop_px})",
    ],
)
