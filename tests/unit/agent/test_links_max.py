"""How many links a card holds, by the option that chooses its transport."""

import pytest

from pd_autoscaler.datadist.options import links_max_of
from pd_autoscaler.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "links_max"),
    [
        ({}, 512),
        ({"device_id": 0}, 512),
        ({"local_comm_res": ""}, 512),
        ({"local_comm_res": "{}"}, 512),
        ({"local_comm_res": '{"version": "1.0"}'}, 512),
        ({"local_comm_res": '{"version": "1.2", "server_list": []}'}, 512),
        ({"local_comm_res": '{"version": "1.3"}'}, None),
    ],
)
def test_a_card_holds_512_links_unless_its_transport_counts_none(
    options: dict[str, object], links_max: int | None
) -> None:
    assert links_max_of(options) == links_max


@pytest.mark.parametrize("given", ["{", "1.3", "[]", '"1.3"', {"version": "1.3"}, None])
def test_what_is_no_json_object_is_refused_by_name(given: object) -> None:
    with pytest.raises(ConfigError, match="local_comm_res"):
        links_max_of({"local_comm_res": given})
