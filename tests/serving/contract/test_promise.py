import pytest

from registry.errors import ConfigurationError
from serving.contract.promise import check_region, make_promise
from tests.serving.support import make_manifest


@pytest.mark.parametrize("region", ["eu", "eu-west-1", "EU_West.1"])
def test_a_plain_region_is_taken(region):
    assert check_region(region) == region
    assert make_promise(make_manifest(), context_tokens=8, sequences=1, region=region).region == region


@pytest.mark.parametrize("region", ["", "東京", "eu west", "eu\n", "eu/1"])
def test_a_region_that_no_header_can_hold_is_refused(region):
    with pytest.raises(ConfigurationError, match="cannot be the name of a region"):
        make_promise(make_manifest(), context_tokens=8, sequences=1, region=region)
