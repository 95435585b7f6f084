"""The networks: shapes, and the properties that each is there for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vconv.config import BottleneckConfig, ConversionConfig, VocoderConfig  # noqa: E402
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE  # noqa: E402
from vconv.models.bottleneck import make_bottleneck  # noqa: E402
from vconv.models.conversion import ConversionModel  # noqa: E402
from vconv.models.discriminators import MelDiscriminator, WaveDiscriminators  # noqa: E402
from vconv.models.layers import AdaIN, GradientReversal, InstanceNorm, pool_statistics  # noqa: E402
from vconv.models.speaker_classifier import PhoneHead, SpeakerClassifier, SpeakerHead  # noqa: E402
from vconv.models.vocoder import Stft, Vocoder  # noqa: E402

SMALL = ConversionConfig(
    channels=16,
    content_blocks=(1, 1),
    content_channels=8,
    speaker_blocks=1,
    embedding_channels=12,
    decoder_channels=16,
    decoder_blocks=(1, 1),
    bottleneck=BottleneckConfig(groups=2, codes=8),
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def speech_like(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, N_MELS, frames) * 2 - 6


@pytest.mark.parametrize("frames", [4, 30, 101 * 2])
def test_conversion_keeps_the_length(frames: int) -> None:
    model = ConversionModel(SMALL).eval()
    pitch = torch.zeros(3, 2, frames)
    result = model(speech_like(3, frames), pitch, speech_like(3, 50))
    assert result.shape == (3, N_MELS, frames)
    code = model.encode(speech_like(3, frames))
    assert code.z_q.shape == (3, 8, frames // 2)
    assert code.codes.shape == (3, 2, frames // 2)


def test_content_does_not_see_a_constant_equalizer() -> None:
    """A filter's gain in each band is constant over time: instance norm removes it, up to the padded ends."""
    model = ConversionModel(SMALL).eval()
    mel = speech_like(1, 400)
    plain = model.content(mel)
    filtered = model.content(mel + torch.linspace(-2, 2, N_MELS)[None, :, None])
    inner = slice(20, -20)
    change = (plain - filtered)[..., inner].square().mean() / plain[..., inner].var()
    assert change < 0.01


def test_speaker_embedding_has_unit_length_and_ignores_order_of_halves() -> None:
    model = ConversionModel(SMALL).eval()
    first, second = speech_like(2, 200), speech_like(2, 200)
    a = model.speaker(torch.cat([first, second], dim=2))
    b = model.speaker(torch.cat([second, first], dim=2))
    torch.testing.assert_close(a.norm(dim=1), torch.ones(2))
    assert (a * b).sum(dim=1).min() > 0.99


def test_instance_norm_gives_zero_mean_and_unit_variance() -> None:
    x = InstanceNorm()(torch.randn(2, 5, 300) * 7 + 3)
    torch.testing.assert_close(x.mean(dim=2), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(dim=2, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_adain_sets_the_statistics_that_the_embedding_asks_for() -> None:
    layer = AdaIN(4, 6)
    embedding = torch.randn(2, 6)
    scale, shift = layer.affine(embedding).chunk(2, dim=1)
    x = layer(torch.randn(2, 4, 500), embedding)
    torch.testing.assert_close(x.mean(dim=2), shift, atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=2, correction=0), (1 + scale).abs(), atol=1e-3, rtol=0)


def test_reversal_turns_the_gradient_round() -> None:
    x = torch.randn(3, requires_grad=True)
    y = GradientReversal.apply(x)
    torch.testing.assert_close(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(x.grad, -torch.tensor([1.0, 2.0, 3.0]))


def test_statistics_pooling_reads_only_what_the_mask_shows() -> None:
    x = torch.randn(1, 3, 50)
    mask = torch.zeros(1, 1, 50)
    mask[..., :20] = 1
    torch.testing.assert_close(pool_statistics(x, mask), pool_statistics(x[..., :20]))


class TestVq:
    def test_gradient_is_rotated_from_the_code_to_the_input(self) -> None:
        """The rotation trick: z_q = λRz with λ = |z_q| / |z|, so the gradient of each group keeps its angle."""
        bottleneck = make_bottleneck(8, BottleneckConfig(groups=2, codes=4)).train()
        z = torch.randn(2, 8, 30, requires_grad=True)
        code = bottleneck(z)
        upstream = torch.randn_like(z)
        (gradient,) = torch.autograd.grad((code.z_q * upstream).sum(), z)
        parts = [x.detach().unflatten(1, (2, 4)) for x in (z, code.z_q, upstream, gradient)]
        before, after, given, got = parts
        torch.testing.assert_close(got.norm(dim=2), given.norm(dim=2) * after.norm(dim=2) / before.norm(dim=2))
        angle = torch.nn.functional.cosine_similarity
        torch.testing.assert_close(angle(got, before, dim=2), angle(given, after, dim=2), atol=1e-4, rtol=0)

    def test_codes_are_the_nearest_and_decode_to_the_code(self) -> None:
        bottleneck = make_bottleneck(8, BottleneckConfig(groups=2, codes=16)).train()
        z = torch.randn(4, 8, 100)
        bottleneck(z)
        bottleneck.eval()
        code = bottleneck.encode(z)
        parts = z.unflatten(1, (2, 4)).transpose(2, 3)
        nearest = torch.cdist(parts, bottleneck.codebooks[None].expand(4, -1, -1, -1)).argmin(dim=3)
        torch.testing.assert_close(code.codes, nearest)
        torch.testing.assert_close(bottleneck.decode(code.codes), code.z_q)
        torch.testing.assert_close(bottleneck(z).z_q, code.z_q)

    def test_encoding_leaves_the_codebook_alone_and_training_moves_it(self) -> None:
        bottleneck = make_bottleneck(8, BottleneckConfig(groups=2, codes=4)).train()
        bottleneck(torch.randn(2, 8, 64))
        before = bottleneck.codebooks.clone()
        bottleneck.encode(torch.randn(2, 8, 64) + 5)
        torch.testing.assert_close(bottleneck.codebooks, before)
        bottleneck(torch.randn(2, 8, 64) + 5)
        assert (bottleneck.codebooks - before).abs().max() > 1e-3

    def test_unused_codes_are_replaced(self) -> None:
        config = BottleneckConfig(groups=1, codes=16, decay=0.5, dead_code_threshold=1.0)
        bottleneck = make_bottleneck(4, config).train()
        for _ in range(20):
            code = bottleneck(torch.randn(8, 4, 64))
        for _ in range(40):  # the data moves far away: only replacement brings the codes along
            code = bottleneck(torch.randn(8, 4, 64) * 3 + 20)
        assert len(code.codes.unique()) > 12


def test_identity_bottleneck_changes_nothing() -> None:
    z = torch.randn(2, 8, 10)
    code = make_bottleneck(8, BottleneckConfig(kind="identity"))(z)
    assert code.z_q is z
    assert code.codes is None
    assert code.loss == 0


def test_heads() -> None:
    code = torch.randn(3, 8, 40)
    assert SpeakerClassifier(8, 5, width=16)(code).shape == (3, 5)
    log_probs = PhoneHead(8, 7, width=16)(code)
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(3, 40))


def test_the_margin_only_lowers_the_true_speaker() -> None:
    head = SpeakerHead(12, 5, margin=0.3)
    embedding = torch.nn.functional.normalize(torch.randn(4, 12), dim=1)
    speaker = torch.tensor([0, 1, 2, 3])
    plain, widened = head(embedding), head(embedding, speaker)
    own = torch.nn.functional.one_hot(speaker, 5).bool()
    assert (widened[own] < plain[own]).all()
    torch.testing.assert_close(widened[~own], plain[~own])


class TestVocoder:
    def test_stft_round_trip(self) -> None:
        stft = Stft(192)
        wave = torch.randn(2, 192 * 40)
        torch.testing.assert_close(stft.inverse(*stft(wave)), wave, atol=1e-4, rtol=0)

    def test_stft_is_the_usual_one(self) -> None:
        stft = Stft(64)
        wave = torch.randn(1, 64 * 30)
        real, imaginary = stft(wave)
        usual = torch.stft(wave, 256, 64, window=torch.hann_window(256), pad_mode="constant", return_complex=True)
        torch.testing.assert_close(torch.complex(real, imaginary).transpose(1, 2), usual[..., :30], atol=1e-3, rtol=0)

    def test_untrained_it_has_the_pitch_of_the_source_and_the_envelope_of_the_mel(self) -> None:
        from vconv.excitation import PulseTrain

        vocoder = Vocoder(VocoderConfig(channels=16, blocks=1)).eval()
        mel = torch.full((1, N_MELS, 100), -9.0)
        mel[:, :20] = -2.0  # up to about 800 Hz
        pitch = torch.zeros(1, 2, 100)
        source = torch.from_numpy(PulseTrain(pitch[0, 0].numpy()).samples(0, 100))[None]
        with torch.no_grad():
            wave = vocoder(mel, pitch, source, torch.zeros_like(source))[0]
        spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
        frequency = torch.fft.rfftfreq(len(wave), 1 / OUTPUT_RATE)
        assert wave.shape == (100 * OUTPUT_HOP,)
        peaks = frequency[spectrum > 0.3 * spectrum.max()]
        assert ((peaks - 200 * (peaks / 200).round()).abs() < 2).all()
        assert spectrum[frequency < 700].max() > 100 * spectrum[frequency > 2000].max()

    def test_what_is_beyond_the_context_changes_nothing(self) -> None:
        vocoder = Vocoder(VocoderConfig(channels=16, blocks=2)).eval()
        torch.nn.init.normal_(vocoder.head.weight, std=0.1)
        mel, pitch = speech_like(1, 80), torch.randn(1, 2, 80)
        source, noise = torch.randn(1, 80 * OUTPUT_HOP), torch.rand(1, 80 * OUTPUT_HOP) * 2 - 1
        edge = vocoder.context_frames
        with torch.no_grad():
            whole = vocoder(mel, pitch, source, noise)
            cut = vocoder(mel[..., 20:], pitch[..., 20:], source[:, 20 * OUTPUT_HOP :], noise[:, 20 * OUTPUT_HOP :])
        start = edge * OUTPUT_HOP
        torch.testing.assert_close(cut[:, start:], whole[:, 20 * OUTPUT_HOP + start :], atol=1e-5, rtol=1e-4)


def test_discriminators_judge_every_item() -> None:
    scores, maps = MelDiscriminator(12, width=4)(speech_like(2, 64), torch.randn(2, 12))
    assert scores.shape[0] == 2
    assert len(maps) == 4
    judged = WaveDiscriminators((2, 3), (256,), 4)(torch.randn(2, 4096))
    assert [s.shape[0] for s, _ in judged] == [2, 2, 2]
