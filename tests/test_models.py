"""The networks: shapes, and the properties that each is there for."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")

from vconv.config import BottleneckConfig, ConversionConfig, VocoderConfig  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE  # noqa: E402
from vconv.models.attention import ReferenceAttention  # noqa: E402
from vconv.models.conversion import ConversionModel  # noqa: E402
from vconv.models.discriminators import MelDiscriminator, WaveDiscriminators  # noqa: E402
from vconv.models.layers import (  # noqa: E402
    AdaIN,
    Concatenation,
    GradientReversal,
    InstanceNorm,
    normalize_mel,
    pool_statistics,
)
from vconv.models.speaker_classifier import PhoneHead, SpeakerClassifier, SpeakerHead  # noqa: E402
from vconv.models.speaker_table import SpeakerTable  # noqa: E402
from vconv.models.vocoder import Vocoder  # noqa: E402
from vconv.voice import Reference  # noqa: E402

SMALL = ConversionConfig(
    channels=16,
    content_blocks=(1, 1),
    content_channels=8,
    speaker_blocks=1,
    embedding_channels=12,
    decoder_channels=16,
    decoder_blocks=(1, 1),
    attention_channels=12,
    attention_heads=2,
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


class TestReferenceAttention:
    def test_like_attends_to_like(self) -> None:
        """Untrained already: the value of the frame whose content is the query's stands out."""
        attention = ReferenceAttention(SMALL)
        content, mel = torch.randn(1, 8, 40), speech_like(1, 80)
        order = torch.randperm(40)
        heard = attention(content, content, mel)
        own = attention.value(normalize_mel(mel))
        match = torch.nn.functional.cosine_similarity(heard, own, dim=1).mean()
        chance = torch.nn.functional.cosine_similarity(heard, own[:, :, order], dim=1).mean()
        assert match > chance + 0.2

    def test_a_reference_said_twice_is_no_other_reference(self) -> None:
        attention = ReferenceAttention(SMALL)
        content, reference, mel = torch.randn(2, 8, 30), torch.randn(2, 8, 200), speech_like(2, 400)
        once = attention(content, reference, mel)
        twice = attention(content, reference.repeat(1, 1, 2), mel.repeat(1, 1, 2))
        assert (once - twice).square().mean() < 0.01 * once.square().mean()  # but at the seam

    def test_without_a_reference_it_says_the_same_everywhere(self) -> None:
        none = Reference.none(8)
        content, mel = (torch.from_numpy(x)[None] for x in (none.content, none.mel))
        heard = ReferenceAttention(SMALL)(torch.randn(1, 8, 30), content, mel)
        torch.testing.assert_close(heard, heard[:, :, :1].expand_as(heard))

    def test_the_decoder_learns_to_use_it(self) -> None:
        decoder = ConversionModel(SMALL).decoder
        inputs = torch.randn(1, 8, 20), torch.zeros(1, 2, 40), torch.randn(1, 12), torch.randn(1, 8, 30)
        loud, soft = speech_like(1, 60), speech_like(1, 60) - 5
        torch.testing.assert_close(decoder(*inputs, loud), decoder(*inputs, soft))  # begins at nothing
        decoder(*inputs, loud).square().mean().backward()
        for layer in (decoder.early, decoder.late):
            assert layer.weight.grad.abs().max() > 0

    def test_a_decoder_can_do_without(self) -> None:
        model = ConversionModel(dataclasses.replace(SMALL, attention_channels=0)).eval()
        assert model(speech_like(1, 20), torch.zeros(1, 2, 20), speech_like(1, 30)).shape == (1, N_MELS, 20)


@pytest.mark.parametrize(("norm", "low", "high"), [("instance", 0.0, 0.01), ("channel", 0.1, math.inf)])
def test_only_instance_norm_removes_a_constant_equalizer(norm: str, low: float, high: float) -> None:
    """A filter's gain in each band is constant over time: instance norm removes it, up to the padded ends."""
    model = ConversionModel(dataclasses.replace(SMALL, content_norm=norm)).eval()
    assert any(isinstance(module, InstanceNorm) for module in model.content.modules()) == (norm == "instance")
    mel = speech_like(1, 400)
    plain = model.content(mel)
    filtered = model.content(mel + torch.linspace(-2, 2, N_MELS)[None, :, None])
    inner = slice(20, -20)
    change = (plain - filtered)[..., inner].square().mean() / plain[..., inner].var()
    assert low <= change < high


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


class TestConcatenation:
    def test_it_is_a_projection_of_the_normalized_frame_and_the_embedding(self) -> None:
        layer = Concatenation(4, 6)
        x, embedding = torch.randn(2, 4, 30) * 7 + 3, torch.randn(2, 6)
        weight, bias = layer.project.weight[..., 0], layer.project.bias
        frames = torch.nn.functional.layer_norm(x.transpose(1, 2), (4,), eps=1e-6)
        expected = frames @ weight[:, :4].T + (embedding @ weight[:, 4:].T)[:, None] + bias
        torch.testing.assert_close(layer(x, embedding), expected.transpose(1, 2))

    def test_a_decoder_hears_the_embedding_through_it_alone_and_takes_no_style(self) -> None:
        config = dataclasses.replace(SMALL, conditioning="concat")
        decoder = ConversionModel(config).decoder
        assert not [module for module in decoder.modules() if isinstance(module, AdaIN)]
        assert config.adapter_shape == (0, 0)
        content, pitch, mel = torch.randn(1, 8, 20), torch.zeros(1, 2, 40), speech_like(1, 40)
        one, other = (torch.nn.functional.normalize(torch.randn(1, 12), dim=1) for _ in range(2))
        said = decoder(content, pitch, one, content, mel)
        assert (decoder(content, pitch, other, content, mel) - said).abs().max() > 1e-2
        torch.testing.assert_close(decoder(content, pitch, one, content, mel, torch.zeros(1, 0, 0)), said)
        layers = [module for module in decoder.modules() if isinstance(module, Concatenation)]
        assert len(layers) == 3  # two blocks and the last norm
        for layer in layers:
            layer.project.weight.data[:, 16:] = 0
        silent = decoder(content, pitch, one, content, mel)
        torch.testing.assert_close(decoder(content, pitch, other, content, mel), silent)


class TestSpeakerTable:
    CONFIG = dataclasses.replace(SMALL, speaker="table", speakers=("ann", "bob", "eve"))

    def test_a_speaker_is_a_row_of_unit_length(self) -> None:
        table = SpeakerTable(self.CONFIG)
        found = table(torch.tensor([2, 0]))
        rows = torch.nn.functional.normalize(table.rows, dim=1)
        torch.testing.assert_close(found, rows[[2, 0]])
        found.sum().backward()
        assert table.rows.grad[1].abs().max() == 0 and (table.rows.grad[[0, 2]].abs().amax(dim=1) > 0).all()

    def test_somebody_unknown_is_the_middle_of_all(self) -> None:
        table = SpeakerTable(self.CONFIG)
        (middle,) = table(torch.tensor([-1]))
        centre = torch.nn.functional.normalize(table.rows, dim=1).mean(dim=0)
        torch.testing.assert_close(middle, centre / centre.norm())

    def test_a_model_takes_the_number_and_not_the_sound(self) -> None:
        model = ConversionModel(dataclasses.replace(self.CONFIG, attention_channels=0)).eval()
        inputs = speech_like(1, 40), torch.zeros(1, 2, 40)
        first, second = torch.tensor([0]), torch.tensor([1])
        said = model(*inputs, speech_like(1, 30), first)
        torch.testing.assert_close(model(*inputs, speech_like(1, 30), first), said)
        assert (model(*inputs, speech_like(1, 30), second) - said).abs().max() > 1e-2

    def test_a_table_needs_names(self) -> None:
        with pytest.raises(InputError, match="needs the names"):
            ConversionModel(dataclasses.replace(SMALL, speaker="table"))


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


def test_heads() -> None:
    code = torch.randn(3, 8, 40)
    prototypes = torch.randn(5, 12, requires_grad=True)
    logits = SpeakerClassifier(8, 12, width=16)(code, prototypes)
    assert logits.shape == (3, 5)
    logits.sum().backward()
    assert prototypes.grad is None  # they are the speaker head's, the adversary only reads them
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
