"""The bottlenecks: the mathematics of each kind, and what all kinds have in common."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from vconv.config import BottleneckConfig  # noqa: E402
from vconv.models.bottleneck import Bottleneck, make_bottleneck  # noqa: E402

KINDS = {
    "identity": {},
    "sparse": {},
    "k-sparse": {"kind": "sparse", "active": 3},
    "vae": {},
    "vq": {"codes": 16},
    "residual": {"kind": "vq", "codes": 4, "quantizers": 3},
    "gumbel": {"codes": 16},
    "binary": {"codes": 8},
    "fsq": {"levels": (5, 4)},
}
CODED = [name for name in KINDS if name not in ("identity", "sparse", "k-sparse", "vae")]
CHANNELS = 8
NUMBERS = {"levels": (5, 5, 5, 5), "groups": 2}  # 4 numbers a group: the 8 channels, without projections
SIGNS = {"codes": 16, "groups": 2}  # 4 signs a group: the 8 channels as they are, without projections


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(name: str, **settings: object) -> Bottleneck:
    """A bottleneck of 8 channels by its name in KINDS, in training, whose codebooks have begun."""
    bottleneck = make_bottleneck(CHANNELS, settings_of(name, **settings)).train()
    if name in ("vq", "residual"):
        bottleneck(torch.randn(4, CHANNELS, 50))
    return bottleneck


def settings_of(name: str, **settings: object) -> BottleneckConfig:
    return BottleneckConfig(**{"kind": name, **KINDS[name], **settings})


def gradient(output: torch.Tensor, z: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad((output * upstream).sum(), z)[0]


# ---------------------------------------------------------------- all kinds


@pytest.mark.parametrize("name", KINDS)
def test_training_and_use_have_one_shape_and_the_loss_a_gradient(name: str) -> None:
    bottleneck = make(name)
    z = torch.randn(2, CHANNELS, 30, requires_grad=True)
    code = bottleneck(z)
    assert code.z_q.shape == z.shape and code.loss.shape == ()
    assert gradient(code.z_q, z, torch.randn_like(z)).abs().max() > 0
    used = bottleneck.eval()(z)
    assert used.z_q.shape == z.shape and used.loss == 0
    if name in CODED:
        assert code.codes.shape == used.codes.shape == (2, 6 if name == "residual" else 2, 30)
        assert code.codes.dtype == used.codes.dtype == torch.int64
    else:
        assert code.codes is None and used.codes is None


@pytest.mark.parametrize("name", KINDS)
def test_encoding_is_what_use_gives_and_changes_nothing(name: str) -> None:
    bottleneck = make(name)
    z = torch.randn(2, CHANNELS, 30)
    before = {key: value.clone() for key, value in bottleneck.state_dict().items()}
    state = torch.get_rng_state()
    first, second = bottleneck.encode(z), bottleneck.encode(z)  # while it is in training
    assert torch.equal(torch.get_rng_state(), state)
    used = bottleneck.eval()(z)
    for other in (second, used):
        assert torch.equal(first.z_q, other.z_q)
    for key, value in bottleneck.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", CODED)
def test_codes_decode_to_exactly_what_was_encoded(name: str) -> None:
    bottleneck = make(name)
    code = bottleneck.encode(torch.randn(3, CHANNELS, 40))
    assert torch.equal(bottleneck.decode(code.codes), code.z_q)
    # And they tell frames apart.
    frames, codes = code.z_q.transpose(1, 2).flatten(0, 1), code.codes.transpose(1, 2).flatten(0, 1)
    assert len(frames.unique(dim=0)) == len(codes.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["identity", "sparse", "k-sparse", "vae"])
def test_a_kind_without_codes_decodes_none(name: str) -> None:
    with pytest.raises(NotImplementedError, match="no codes"):
        make(name).decode(torch.zeros(1, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("identity", math.inf),
        ("sparse", math.inf),
        ("k-sparse", math.inf),
        ("vae", math.inf),
        ("vq", 2 * 4),
        ("residual", 2 * 3 * 2),
        ("gumbel", 2 * 4),
        ("binary", 2 * 3),
        ("fsq", 2 * math.log2(20)),
    ],
)
def test_bits_per_frame(name: str, bits: float) -> None:
    assert make(name).bits_per_frame == pytest.approx(bits)


@pytest.mark.parametrize("name", CODED)
def test_a_code_takes_each_of_its_values(name: str) -> None:
    bottleneck, config = make(name), settings_of(name)
    codes = bottleneck.encode(8 * torch.randn(8, CHANNELS, 2000)).codes
    assert codes.min() == 0 and codes.max() == config.code_values - 1
    assert codes.shape[1] == config.codes_per_frame


# ---------------------------------------------------------------- identity, sparse, VAE


def test_identity_changes_nothing() -> None:
    z = torch.randn(2, CHANNELS, 10)
    code = make("identity")(z)
    assert code.z_q is z and code.loss == 0


def test_k_sparse_keeps_the_k_largest() -> None:
    z = torch.randn(2, CHANNELS, 30, requires_grad=True)
    code = make("k-sparse")(z)
    kept = code.z_q != 0
    assert (kept.sum(dim=1) == 3).all()
    assert torch.equal(code.z_q[kept], z[kept])
    assert (z.masked_fill(kept, -math.inf).amax(dim=1) <= z.masked_fill(~kept, math.inf).amin(dim=1)).all()
    upstream = torch.randn_like(z)
    assert torch.equal(gradient(code.z_q, z, upstream), upstream * kept)


class TestSparsePenalty:
    def test_it_counts_channels_not_loudness(self) -> None:
        """One active channel of eight gives sqrt(1 / 8), equal channels give 1, whatever their size."""
        bottleneck = make("sparse", penalty=2.0)
        one = torch.zeros(1, CHANNELS, 5)
        one[:, 3] = 0.7
        torch.testing.assert_close(bottleneck(one).loss, torch.tensor(2.0 / math.sqrt(8)))
        torch.testing.assert_close(bottleneck(torch.full_like(one, 9.0)).loss, torch.tensor(2.0))
        z = torch.randn(2, CHANNELS, 30)
        torch.testing.assert_close(bottleneck(5 * z).loss, bottleneck(z).loss)

    def test_descending_it_empties_channels(self) -> None:
        bottleneck = make("sparse")
        z = torch.randn(2, CHANNELS, 30, requires_grad=True)
        before = (bottleneck(z).z_q > 0).sum()
        optimizer = torch.optim.SGD([z], 30.0)
        for _ in range(50):
            optimizer.zero_grad()
            bottleneck(z).loss.backward()
            optimizer.step()
        assert (bottleneck(z).z_q > 0).sum() < 0.7 * before


class TestVae:
    def distribution(self, bottleneck: Bottleneck, z: torch.Tensor) -> torch.distributions.Normal:
        mean, log_variance = bottleneck.statistics(z).chunk(2, dim=1)
        return torch.distributions.Normal(mean, (log_variance / 2).exp())

    def test_the_divergence_is_that_of_the_distributions(self) -> None:
        bottleneck, z = make("vae"), 3 * torch.randn(2, CHANNELS, 20)
        normal = torch.distributions.Normal(0.0, 1.0)
        expected = torch.distributions.kl_divergence(self.distribution(bottleneck, z), normal).sum(dim=1)
        torch.testing.assert_close(bottleneck.divergence(z), expected)

    def test_it_draws_from_the_distribution_and_uses_its_mean(self) -> None:
        bottleneck, z = make("vae"), torch.randn(1, CHANNELS, 1)
        distribution = self.distribution(bottleneck, z)
        draws = bottleneck(z.expand(1, CHANNELS, 40_000)).z_q
        torch.testing.assert_close(draws.mean(dim=2, keepdim=True), distribution.mean, atol=0.03, rtol=0)
        torch.testing.assert_close(draws.std(dim=2, keepdim=True), distribution.stddev, atol=0, rtol=0.03)
        torch.testing.assert_close(bottleneck.encode(z).z_q, distribution.mean)

    def test_the_loss_warms_up(self) -> None:
        bottleneck, z = make("vae", beta=0.5, warmup=100), torch.randn(2, CHANNELS, 20)
        full = 0.5 * bottleneck.divergence(z).mean()
        for step, share in ((0, 0.0), (25, 0.25), (100, 1.0), (10_000, 1.0)):
            bottleneck.anneal(step)
            torch.testing.assert_close(bottleneck(z).loss, share * full)

    def test_the_gradient_reaches_mean_and_deviation(self) -> None:
        bottleneck, z = make("vae"), torch.randn(2, CHANNELS, 20)
        bottleneck(z).z_q.square().sum().backward()
        assert (bottleneck.statistics.weight.grad.abs().amax(dim=(1, 2)) > 0).all()


# ---------------------------------------------------------------- vector quantization


class TestVq:
    @pytest.mark.parametrize("name", ["vq", "residual"])
    def test_gradient_is_rotated_from_the_code_to_the_input(self, name: str) -> None:
        """The rotation trick: z_q = λRz with λ = |z_q| / |z|, so the gradient of each group keeps its angle."""
        bottleneck = make(name)
        z = torch.randn(2, CHANNELS, 30, requires_grad=True)
        code = bottleneck(z)
        upstream = torch.randn_like(z)
        got = gradient(code.z_q, z, upstream)
        before, after, given, got = (x.detach().unflatten(1, (2, 4)) for x in (z, code.z_q, upstream, got))
        torch.testing.assert_close(got.norm(dim=2), given.norm(dim=2) * after.norm(dim=2) / before.norm(dim=2))
        angle = F.cosine_similarity
        torch.testing.assert_close(angle(got, before, dim=2), angle(given, after, dim=2), atol=1e-4, rtol=0)

    def test_codes_are_the_nearest_in_training_and_in_use(self) -> None:
        bottleneck, z = make("vq"), torch.randn(4, CHANNELS, 100)
        books = bottleneck.codebooks.clone()
        learned, used = bottleneck(z), bottleneck.encode(z)
        parts = z.unflatten(1, (2, 4)).transpose(2, 3)
        for code, entries in ((learned, books), (used, bottleneck.codebooks)):
            nearest = torch.cdist(parts, entries[None].expand(4, -1, -1, -1)).argmin(dim=3)
            assert (code.codes == nearest).float().mean() > 0.99  # but for ties in rounding
        torch.testing.assert_close(bottleneck.eval()(z).z_q, used.z_q)

    def test_the_loss_is_the_distance_to_the_code_of_each_stage(self) -> None:
        bottleneck, z = make("residual"), torch.randn(2, CHANNELS, 50, requires_grad=True)
        books = [stage["_codebook"].embed.clone() for stage in bottleneck.stages]
        code = bottleneck(z)
        rest, loss = z, 0.0
        for stage, entries in enumerate(books):
            picked = [entries[g][code.codes[:, 2 * stage + g]] for g in range(2)]  # each [B, T, C / 2]
            rest = rest - torch.cat(picked, dim=2).transpose(1, 2)
            loss = loss + rest.square().mean()
        torch.testing.assert_close(code.loss, loss)
        torch.testing.assert_close(gradient(code.loss, z, torch.ones(())), gradient(loss, z, torch.ones(())))

    def test_each_stage_brings_the_code_nearer(self) -> None:
        bottleneck = make("residual", decay=0.8)
        for _ in range(30):
            bottleneck(torch.randn(8, CHANNELS, 100))
        z = torch.randn(4, CHANNELS, 200)
        codes = bottleneck.encode(z).codes
        errors = [(bottleneck.decode(codes[:, : 2 * stages]) - z).square().mean() for stages in (1, 2, 3)]
        assert errors[0] > 1.1 * errors[1] and errors[1] > 1.1 * errors[2]

    def test_one_stage_has_the_names_of_old_checkpoints(self) -> None:
        names = {f"quantizer._codebook.{name}" for name in ("initted", "cluster_size", "embed_avg", "embed")}
        assert make("vq").state_dict().keys() == names

    def test_encoding_leaves_the_codebook_alone_and_training_moves_it(self) -> None:
        bottleneck = make("vq")
        before = bottleneck.codebooks.clone()
        bottleneck.encode(torch.randn(2, CHANNELS, 64) + 5)
        torch.testing.assert_close(bottleneck.codebooks, before)
        bottleneck(torch.randn(2, CHANNELS, 64) + 5)
        assert (bottleneck.codebooks - before).abs().max() > 1e-3

    @pytest.mark.parametrize("quantizers", [1, 2])
    def test_unused_codes_are_replaced(self, quantizers: int) -> None:
        bottleneck = make("vq", groups=1, decay=0.5, dead_code_threshold=1.0, quantizers=quantizers)
        for _ in range(20):
            bottleneck(torch.randn(8, CHANNELS, 64))
        for _ in range(40):  # the data moves far away: only replacement brings the codes along
            code = bottleneck(torch.randn(8, CHANNELS, 64) * 3 + 20)
        for row in code.codes.unbind(1):
            assert len(row.unique()) > 12


# ---------------------------------------------------------------- Gumbel-softmax


class TestGumbel:
    def test_the_temperature_falls_from_the_first_to_the_last(self) -> None:
        bottleneck = make("gumbel", temperature=(2.0, 0.5), warmup=100)
        found = []
        for step in (0, 50, 100, 5000):
            bottleneck.anneal(step)
            found.append(bottleneck.temperature)
        assert found == pytest.approx([2.0, 1.0, 0.5, 0.5])

    def test_in_use_each_group_is_the_entry_with_the_largest_logit(self) -> None:
        bottleneck, z = make("gumbel"), torch.randn(2, CHANNELS, 30)
        code = bottleneck.eval()(z)
        logits = bottleneck.logits(z).unflatten(1, (2, 16))
        hot = F.one_hot(logits.argmax(dim=2), 16).float()  # [B, G, T, K]
        expected = torch.einsum("bgtk,gkc->bgct", hot, bottleneck.codebooks).flatten(1, 2)
        torch.testing.assert_close(code.z_q, expected)

    def test_in_training_entries_are_drawn_by_their_probability_and_never_mixed(self) -> None:
        """Gumbel-max: whatever the temperature, entry k is the largest with probability softmax(logits)_k."""
        bottleneck = make("gumbel", codes=4)
        with torch.no_grad():
            bottleneck.logits.weight.mul_(0.3)
        z = torch.randn(1, CHANNELS, 1)
        probability = bottleneck._logits(z).softmax(dim=3)[0, :, 0]
        for step in (0, 10**6):
            bottleneck.anneal(step)
            code = bottleneck(z.expand(1, CHANNELS, 20_000))
            share = F.one_hot(code.codes[0], 4).float().mean(dim=1)
            torch.testing.assert_close(share, probability, atol=0.02, rtol=0)
            torch.testing.assert_close(code.z_q, bottleneck.decode(code.codes))

    def test_the_gradient_is_that_of_the_soft_sample(self) -> None:
        bottleneck, z = make("gumbel"), torch.randn(2, CHANNELS, 30, requires_grad=True)
        upstream = torch.randn_like(z)
        torch.manual_seed(1)
        hard = gradient(bottleneck(z).z_q, z, upstream)
        torch.manual_seed(1)
        soft = F.gumbel_softmax(bottleneck._logits(z), bottleneck.temperature, dim=3)
        mixed = torch.einsum("bgtk,gkc->bgct", soft, bottleneck.codebooks).flatten(1, 2)
        torch.testing.assert_close(hard, gradient(mixed, z, upstream))

    def test_the_loss_is_what_the_mean_choice_lacks_in_entropy(self) -> None:
        bottleneck = make("gumbel", entropy=0.5)
        torch.nn.init.zeros_(bottleneck.logits.weight)
        z = torch.randn(2, CHANNELS, 30)
        torch.testing.assert_close(bottleneck(z).loss, torch.zeros(()), atol=1e-6, rtol=0)  # all are as likely
        with torch.no_grad():
            bottleneck.logits.bias[3] = bottleneck.logits.bias[16 + 7] = 100.0  # but for one entry a group
        torch.testing.assert_close(bottleneck(z).loss, torch.tensor(0.5 * math.log(16)))


# ---------------------------------------------------------------- signs


class TestBinary:
    def test_the_code_is_the_signs_and_the_gradient_passes_straight_through(self) -> None:
        bottleneck, z = make("binary", **SIGNS), torch.randn(2, CHANNELS, 30, requires_grad=True)
        code = bottleneck(z)
        torch.testing.assert_close(code.z_q, z.sign())
        upstream = torch.randn_like(z)
        torch.testing.assert_close(gradient(code.z_q, z, upstream), upstream)

    def test_codes_are_the_signs_as_binary_numbers(self) -> None:
        bottleneck = make("binary", **SIGNS)
        codes = torch.arange(16).expand(1, 2, 16)
        signs = bottleneck.decode(codes)
        assert torch.equal(bottleneck.encode(signs).codes, codes)
        assert signs[0, :4, 0b0101].tolist() == [1, -1, 1, -1]  # the lowest bit first

    def test_projections_are_passed_both_ways(self) -> None:
        bottleneck, z = make("binary"), torch.randn(2, CHANNELS, 30, requires_grad=True)
        upstream = torch.randn_like(z)
        linear = bottleneck.project_out(bottleneck.project_in(z))
        torch.testing.assert_close(gradient(bottleneck(z).z_q, z, upstream), gradient(linear, z, upstream))

    def test_the_entropies_are_those_of_independent_signs(self) -> None:
        """q is a product of one sigmoid for each sign."""
        bottleneck, z = make("binary", groups=1, codes=256), torch.randn(2, CHANNELS, 30)
        on = torch.distributions.Bernoulli(logits=4 * z)
        every = bottleneck.decode(torch.arange(256).expand(1, 1, -1))[0].T > 0  # [K, C]
        joint = on.log_prob(every[:, None, :, None].float()).sum(dim=2).exp().mean(dim=(1, 2))  # [K]
        expected = on.entropy().sum(dim=1).mean() - torch.distributions.Categorical(joint).entropy()
        torch.testing.assert_close(bottleneck._undecided_and_unused(z), expected)

    def test_the_loss_is_least_where_frames_are_decided_and_all_codes_in_use(self) -> None:
        bottleneck = make("binary", entropy=0.5, **SIGNS)
        everything = 6 * bottleneck.decode(torch.arange(16).expand(1, 2, 16))
        least = -math.log(16)
        assert bottleneck._undecided_and_unused(everything) == pytest.approx(least, abs=1e-3)
        for worse in (0 * everything, everything[:, :, :1].expand(-1, -1, 16)):
            assert bottleneck._undecided_and_unused(worse) == pytest.approx(0, abs=1e-3)
        signs = everything / 6
        expected = 0.5 * bottleneck._undecided_and_unused(signs)  # signs commit at no distance
        torch.testing.assert_close(bottleneck(signs).loss, expected)

    def test_without_entropy_only_the_distance_to_the_signs_is_left(self) -> None:
        bottleneck, z = make("binary", entropy=0.0, **SIGNS), torch.randn(2, CHANNELS, 30)
        torch.testing.assert_close(bottleneck(z).loss, (z.abs() - 1).square().mean())


# ---------------------------------------------------------------- finite scalars


class TestFsq:
    def test_numbers_are_rounded_and_the_gradient_passes_straight_through(self) -> None:
        bottleneck, z = make("fsq", **NUMBERS), torch.randn(2, CHANNELS, 30, requires_grad=True)
        code, bounded = bottleneck(z), 1.001 * z.tanh()  # a little beyond the outermost level, so that it is reached
        torch.testing.assert_close(code.z_q, (2 * bounded).round() / 2)
        upstream = torch.randn_like(z)
        torch.testing.assert_close(gradient(code.z_q, z, upstream), gradient(bounded, z, upstream))

    def test_codes_are_the_levels_as_a_number_in_mixed_radix(self) -> None:
        bottleneck = make("fsq", **NUMBERS)
        codes = torch.arange(5**4).expand(1, 2, -1)
        numbers = bottleneck.decode(codes)
        assert len(numbers[0, :4].unique(dim=1)[0]) == 5**4
        assert numbers.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
        assert torch.equal(bottleneck.encode(torch.atanh(numbers / 1.001)).codes, codes)
        place = 1 + 5 * 3  # level 1 of the first number, 3 of the second, 0 of the others
        assert numbers[0, :4, place].tolist() == [-0.5, 0.5, -1, -1]
