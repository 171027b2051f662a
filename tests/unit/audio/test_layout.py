import pytest

from unbraid.audio.layout import channel_groups, default_channels


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        (("FC",), ((0,),)),
        (("FL", "FR"), ((0, 1),)),
        (("FR", "FL"), ((1, 0),)),
        (("FL", "FR", "LFE"), ((0, 1), (2,))),
        (("FL", "FR", "FC", "BC"), ((0, 1), (2,), (3,))),
        (("FL", "FR", "BL", "BR"), ((0, 1), (2, 3))),
        (("FL", "FR", "FC", "LFE", "BL", "BR"), ((0, 1), (2,), (3,), (4, 5))),
        (("FL", "FR", "FC", "LFE", "SL", "SR"), ((0, 1), (2,), (3,), (4, 5))),
        (("FL", "FR", "FC", "LFE", "BC", "SL", "SR"), ((0, 1), (2,), (3,), (4,), (5, 6))),
        (("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"), ((0, 1), (2,), (3,), (4, 5), (6, 7))),
        (("FC", "FL", "FR", "BL", "BR", "LFE"), ((0,), (1, 2), (3, 4), (5,))),
        (("FL", "BL", "FR", "BR"), ((0, 2), (1, 3))),
        (("FL", "SR"), ((0,), (1,))),
        (("FL", "FL", "FR"), ((0,), (1,), (2,))),
        (("CH0", "CH1", "CH2"), ((0,), (1,), (2,))),
    ],
)
def test_lefts_and_rights_are_paired(channels: tuple[str, ...], groups: tuple[tuple[int, ...], ...]) -> None:
    assert channel_groups(channels) == groups


@pytest.mark.parametrize("n_channels", range(1, 20))
def test_every_channel_is_in_exactly_one_group(n_channels: int) -> None:
    channels = default_channels(n_channels)
    assert len(channels) == len(set(channels)) == n_channels
    assert sorted(i for group in channel_groups(channels) for i in group) == list(range(n_channels))
