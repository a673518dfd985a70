"""A routing function of PyTorch is checked as it is, its gradients too."""

import pytest

from capsjax.testing import Claims, check_routing, faults

torch = pytest.importorskip("torch")


def squash(s, eps):
    squared = (s * s).sum(-1, keepdim=True)
    return squared / (1 + squared) * s / torch.sqrt(squared + eps)


def route(votes, *, dim=2, eps=1e-8, detach=False, shared=False):
    votes = votes.detach() if detach else votes
    b = torch.zeros(votes.shape[1:3] if shared else votes.shape[:3])
    for _ in range(3):
        c = torch.softmax(b, dim=dim - shared)
        s = (c[..., None] * votes).sum(dim=1)
        v = squash(s, eps)
        agreement = (votes * v[:, None]).sum(-1)
        b = b + (agreement.mean(0) if shared else agreement)
    return v, v.norm(dim=-1), c.expand(votes.shape[:3])


def check(claims="dynamic", **settings):
    return check_routing(lambda votes: route(votes, **settings), claims, convert=torch.from_numpy)


def test_a_right_one_passes_and_its_gradients_are_finite():
    report = check().raise_if_failed()
    assert "For votes of 0, gradients are finite." in [each.sentence for each in report.findings]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "name", "fault"),
    [
        ({"dim": 1}, "softmax of couplings", faults.SOFTMAX_OVER_CHILDREN),
        ({"shared": True}, "batch of one", faults.SHARED_LOGITS),
        ({"detach": True}, "finite gradients", faults.NO_GRADIENT),
        ({"eps": 0.0}, "finite values", faults.ZERO),
    ],
)
def test_its_faults_are_named(settings, name, fault):
    found = [(finding.check, finding.fault) for finding in check(**settings).failures]
    assert found[0] == (name, fault)


def test_activations_of_lower_capsules_get_gradients_too():
    def weighted(votes, activations):
        weights = torch.sqrt(activations)[..., None, None]  # infinite slope at 0
        return squash((weights * votes).mean(2, keepdim=True).sum(1) + 0 * votes.sum(1), 1e-8)

    claims = Claims(competition=False, agreement=False, activations="weights", length="any")
    report = check_routing(weighted, claims, convert=torch.from_numpy)
    found = [finding.sentence for finding in report.failures]
    assert found == ["For activations of 0, gradients are not finite."]


def test_the_mask_of_a_module_is_found():
    class Uniform(torch.nn.Module):
        def forward(self, votes, mask=None):
            kept = votes if mask is None else votes * mask[..., None, None]
            return squash(kept.sum(1) / votes.shape[2], 1e-8)

    claims = Claims(competition=False, agreement=False)
    report = check_routing(Uniform(), claims, convert=torch.from_numpy, raise_error=True)
    assert "mask" in [each.check for each in report.findings if each.verdict == "passed"]
