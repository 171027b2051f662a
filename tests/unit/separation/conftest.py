import pytest

from fake_model import STEMS, BinShares
from unbraid.models.spleeter.config import SpleeterConfig
from unbraid.models.spleeter.transform import SpleeterTransform
from unbraid.weights.store import Model


@pytest.fixture
def engine() -> BinShares:
    return BinShares()


@pytest.fixture
def model() -> Model:
    config = SpleeterConfig(stems=STEMS, n_frames=64, n_bins=1024)
    return Model("test", SpleeterTransform(config), dict, (), tuple((stem, (i,)) for i, stem in enumerate(STEMS)))
