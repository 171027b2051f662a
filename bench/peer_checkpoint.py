"""Write a random checkpoint of the official shapes for a Spleeter model, with the configuration to run it by ours.

Run with the interpreter of an environment that holds Spleeter 2.4.2 (``pip install spleeter==2.4.2``, Python 3.11)::

    SPLEETER_ENV/bin/python bench/peer_checkpoint.py FOLDER [4stems 2stems …]

Speed does not depend on the values of the weights, so nothing has to be downloaded. The values are drawn so that the
masks are neither saturated nor constant, which makes the outputs of the two programs comparable too. Afterwards
``MODEL_PATH=FOLDER spleeter separate -p spleeter:4stems`` runs the one and ``unbraid separate -p FOLDER/4stems.json``
the other.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import pathlib
import sys

SEED = 20260101
# A mix of full scale has magnitudes of some tens in a bin; the first layer brings them to the order of one.
INPUT_GAIN = 0.03
# Keeps the logits of the last layer within a few units.
OUTPUT_GAIN = 0.3


def draw(rng, name: str, shape: tuple[int, ...], first: bool, last: bool):
    """Draw the values of one variable: He for kernels, near the identity for batch normalisation."""
    if "kernel" in name:
        # Of a 5 × 5 transposed kernel with stride 2 a quarter meets any one output sample.
        fan_in = shape[0] * shape[1] * (shape[3] / 4 if "transpose" in name else shape[2])
        gain = INPUT_GAIN if first else OUTPUT_GAIN if last else 1.0
        return rng.normal(0, gain * (2 / fan_in) ** 0.5, shape)
    if "moving_variance" in name or "gamma" in name:
        return rng.uniform(0.7, 1.3, shape)
    return rng.normal(0, 0.05, shape)


def write_checkpoint(folder: pathlib.Path, model: str) -> None:
    """Write ``folder/model/{checkpoint,model.index,…,.probe}`` and ``folder/model.json``."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import tensorflow as tf
    from spleeter.model import EstimatorSpecBuilder, InputProviderFactory
    from spleeter.utils.configuration import load_configuration

    tf.compat.v1.disable_eager_execution()
    parameters = load_configuration(f"spleeter:{model}")
    parameters["MWF"] = False
    rng = np.random.default_rng(SEED)
    target = folder / model
    target.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        features = InputProviderFactory.get(parameters).get_input_dict_placeholders()
        _ = EstimatorSpecBuilder(features, parameters).outputs
        tf.compat.v1.train.get_or_create_global_step()
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for variable in tf.compat.v1.global_variables():
                shape = tuple(int(n) for n in variable.shape)
                if not shape:
                    continue
                kernel = "kernel" in variable.name
                first = kernel and shape[2] == parameters["n_channels"] and "transpose" not in variable.name
                last = kernel and shape[:2] == (4, 4)
                variable.load(draw(rng, variable.name, shape, first, last).astype("float32"), session)
            tf.compat.v1.train.Saver(save_relative_paths=True).save(session, str(target / "model"))
    (target / ".probe").write_text("OK")
    text = importlib.resources.files("spleeter.resources").joinpath(f"{model}.json").read_text()
    configuration = json.loads(text)
    configuration["model_dir"] = model
    (folder / f"{model}.json").write_text(json.dumps(configuration, indent=2) + "\n")


if __name__ == "__main__":
    for name in sys.argv[2:] or ["4stems", "2stems"]:
        write_checkpoint(pathlib.Path(sys.argv[1]), name)
