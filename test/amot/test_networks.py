"""The networks compute what transformers' own forward does, on patches instead of images."""

import pytest
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from offload_ros.amot import inference
from offload_ros.amot.networks import (
    DEIT_S,
    MAE_DECODER,
    MAE_L,
    SecondPass,
    VitSize,
    coloured,
    embed,
    encode,
    rebuilt,
    sine_codes,
    taken,
    vit_classifier,
    vit_mae,
)
from offload_ros.amot.patches import patches_of

from .networks import IMAGE_PX, PATCH_PX, PATCHES, images, small_bundle

POSITIONS = torch.tensor([[0, 4, 5, 8], [1, 2, 3, 7]])


def planes(bundle, batch):
    """The batch as transformers wants it: normalised (B, 3, H, W)."""
    patches = bundle.normalise(patches_of(batch, PATCH_PX).float())
    side = IMAGE_PX // PATCH_PX
    tiles = patches.view(len(batch), side, side, PATCH_PX, PATCH_PX, 3)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(batch), 3, IMAGE_PX, IMAGE_PX)


def test_whole_images_are_classified_as_by_transformers_and_attention_is_its_last_layers():
    bundle, batch = small_bundle(), images(2)
    bundle.classifier.set_attn_implementation('eager')
    with torch.inference_mode():
        wanted = bundle.classifier(planes(bundle, batch), output_attentions=True)
    found = inference.whole(bundle, patches_of(batch, PATCH_PX))
    assert wanted.logits.softmax(-1).std(0).max() > 1e-3  # the images are told apart
    torch.testing.assert_close(found.probabilities, wanted.logits.softmax(-1))
    torch.testing.assert_close(found.attention, wanted.attentions[-1].mean(1)[:, 0, 1:])


def test_missing_patches_are_drawn_as_by_transformers():
    bundle, batch = small_bundle(), images(2)
    patches = patches_of(batch, PATCH_PX)
    kept = POSITIONS.shape[1]
    noise = torch.full((2, PATCHES), 2.0)
    noise.scatter_(1, POSITIONS, torch.arange(kept).expand(2, -1) / kept)
    mae = bundle.mae
    mae.config.mask_ratio = 1.0 - kept / PATCHES
    with torch.inference_mode():
        wanted = mae(planes(bundle, batch), noise=noise)
        known = bundle.normalise(taken(patches, POSITIONS).float())
        found = rebuilt(mae, known, POSITIONS)
    missing = wanted.mask.bool()
    assert missing.sum() == 2 * (PATCHES - kept)
    torch.testing.assert_close(found[missing], wanted.logits[missing], rtol=1e-4, atol=1e-5)
    assert torch.equal(taken(found, POSITIONS), known)  # what came is as it came


def test_fixed_codes_are_those_of_a_published_autoencoder():
    """Computed here in another way: each code by itself, column first (MAE's order)."""
    side, width = 3, 8
    codes = sine_codes(side, width)
    assert not codes[0, 0].any()
    for row in range(side):
        for column in range(side):
            wanted = []
            for at in (column, row):
                angles = [at / 10000.0 ** (k / (width // 4)) for k in range(width // 4)]
                wanted += [torch.tensor(a).sin() for a in angles]
                wanted += [torch.tensor(a).cos() for a in angles]
            found = codes[0, 1 + row * side + column]
            torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-6)


def test_new_autoencoders_know_where_patches_are():
    mae = vit_mae(VitSize(16, 1, 2), VitSize(16, 1, 2), 32, 16)
    assert mae.vit.embeddings.position_embeddings[0, 1:].any()
    assert mae.decoder.decoder_pos_embed[0, 1:].any()


def test_normalised_targets_are_undone_with_what_came():
    patches = torch.randn(1, PATCHES, 12) * 3.0 + 7.0
    positions = torch.arange(PATCHES)[None]
    mean, std = patches.mean(-1, keepdim=True), patches.std(-1, keepdim=True)
    found = coloured((patches - mean) / std, patches, positions)
    # Where all patches came, each is nearest to itself: mostly its own mean and deviation.
    assert (found - patches).abs().mean() < 0.35 * patches.std()
    assert found.shape == patches.shape


def test_a_published_autoencoder_with_normalised_targets_runs():
    torch.manual_seed(0)
    mae = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            decoder_intermediate_size=32, image_size=48, norm_pix_loss=True,
        )
    )  # fmt: skip
    with torch.inference_mode():
        assert rebuilt(mae, torch.randn(2, 4, 768), POSITIONS).isfinite().all()


def test_patches_asked_for_are_missing_and_have_most_attention():
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.2, 0.1], [0.5, 0.1, 0.1, 0.2, 0.1]])
    have = torch.tensor([[1, 0], [3, 4]])
    assert inference.missing_by_attention(attention, have, 2).tolist() == [[2, 3], [0, 1]]


@pytest.mark.parametrize('layers', [1, 3])
@pytest.mark.parametrize('linear', [True, False])
@pytest.mark.parametrize('only_new', [True, False])
def test_second_pass_adds_at_equal_positions(layers, linear, only_new):
    bundle = small_bundle()
    config = bundle.classifier.config
    second = SecondPass(config, layers, linear, only_new).eval()
    first = torch.randn(2, 1 + PATCHES, config.hidden_size)
    new = torch.randn(2, 1 + POSITIONS.shape[1], config.hidden_size)
    with torch.inference_mode():
        found = second(first, new, POSITIONS)
        if only_new:
            tokens = second.second(new)
        else:
            tokens = second.first(first)
            for image in range(2):
                tokens[image, 0] += second.second(new[image, 0])
                for index, position in enumerate(POSITIONS[image].tolist()):
                    tokens[image, 1 + position] += second.second(new[image, 1 + index])
        for layer in second.layers:
            tokens = layer(tokens)
        wanted = second.head(second.layernorm(tokens)[:, 0])
    torch.testing.assert_close(found, wanted)


def test_a_second_pass_begins_as_the_classifiers_own_end():
    bundle = small_bundle()
    second = SecondPass(bundle.classifier.config, layers=2)
    second.begin_from(bundle.classifier)
    own = bundle.classifier
    assert torch.equal(second.head.weight, own.classifier.weight)
    assert torch.equal(second.first.weight, torch.eye(len(second.first.weight)))


def test_patches_are_embedded_one_by_one():
    """So that the second pass may see new patches alone, and a sample is as it is in the whole."""
    bundle = small_bundle()
    known = bundle.normalise(patches_of(images(2), PATCH_PX).float())
    with torch.inference_mode():
        whole = embed(bundle.classifier.vit, known)
        part = embed(bundle.classifier.vit, taken(known, POSITIONS), POSITIONS)
    torch.testing.assert_close(part[:, 0], whole[:, 0])
    torch.testing.assert_close(part[:, 1:], taken(whole[:, 1:], POSITIONS))


def test_real_sizes_have_the_published_numbers_of_parameters():
    """DeiT-Small, and ViT-L with the decoder of MAE, fixed codes apart."""
    with torch.device('meta'):
        deit = vit_classifier(DEIT_S, 224, 16, [str(label) for label in range(1000)])
    assert sum(p.numel() for p in deit.parameters()) == 22_050_664
    mae = vit_mae(VitSize(64, 1, 2), MAE_DECODER, 224, 16)  # shapes of the decoder are MAE_L's own
    assert mae.decoder.decoder_pos_embed.shape == (1, 197, 512)
    assert (MAE_L.width, MAE_L.layers, MAE_L.heads) == (1024, 24, 16)


def test_batches_give_what_single_images_give():
    bundle, batch = small_bundle(), images(3, seed=5)
    patches = patches_of(batch, PATCH_PX)
    positions = torch.tensor([[0, 4, 5], [2, 3, 8], [1, 6, 7]])
    sent = taken(patches, positions)
    together = inference.first_pass(bundle, sent, positions)
    more = inference.missing_by_attention(together.attention, positions, 2)
    answer = inference.second_pass(bundle, together.embeddings, taken(patches, more), more)
    for index in range(3):
        one = slice(index, index + 1)
        alone = inference.first_pass(bundle, sent[one], positions[one])
        torch.testing.assert_close(alone.probabilities, together.probabilities[one])
        again = inference.second_pass(
            bundle, alone.embeddings, taken(patches, more)[one], more[one]
        )
        torch.testing.assert_close(again, answer[one])


def test_attention_sums_to_one_with_cls():
    bundle = small_bundle()
    tokens = embed(bundle.classifier.vit, torch.randn(2, PATCHES, 768))
    _, attention = encode(bundle.classifier.vit, tokens)
    assert attention.shape == (2, PATCHES)
    assert ((attention > 0).all() and (attention.sum(-1) < 1).all()).item()
