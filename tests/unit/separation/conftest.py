import pytest

from fake_model import STEMS, BinShares
from unbraid.datatypes import Network
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.weights.model_file import NetworkPart
from unbraid.weights.store import Model, Part


@pytest.fixture
def engine() -> BinShares:
    return BinShares()


@pytest.fixture
def model() -> Model:
    config = SpleeterConfig(stems=STEMS, n_frames=64, n_bins=1024)
    part = Part(NetworkPart("spleeter", config), SpleeterTransform(config), dict, no_network)
    return Model("test", (part,), tuple((stem, (i,)) for i, stem in enumerate(STEMS)))


def no_network(*arguments: object) -> Network:
    raise AssertionError("the tests run a line of NumPy in place of the network")
