"""Small models of public architectures (transformers, random weights), with what applications put
before and behind them. ``build_public(name)`` gives model and inputs as ``networks.build`` does."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Logits(nn.Module):
    """``model`` of images, its field ``field``."""

    def __init__(self, model, field='logits'):
        super().__init__()
        self.model, self.field = model, field

    def forward(self, image):
        return getattr(self.model(image), self.field)


class Bytes(nn.Module):
    """uint8 images, normalised inside; the five best classes."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer('deviation', torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, image):
        logits = self.model((image.float() / 255 - self.mean) / self.deviation).logits
        best = logits.softmax(-1).topk(5)
        return {'probabilities': best.values, 'classes': best.indices}


class Labels(nn.Module):
    """Labels at the size of the image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        logits = self.model(image).logits
        full = nn.functional.interpolate(logits, size=image.shape[-2:], mode='bilinear')
        return full.argmax(1).to(torch.uint8)


class Detections(nn.Module):
    """Boxes above the mean confidence: their number depends on the image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        output = self.model(image)
        confidence, label = output.logits[0].softmax(-1)[:, :-1].max(-1)
        found = confidence > confidence.mean()
        return {'boxes': output.pred_boxes[0][found], 'labels': label[found]}


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=16,
    )  # fmt: skip
    return Logits(ViTForImageClassification(config)), _image(64, 64)


def deit():
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    config = DeiTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=16,
    )  # fmt: skip
    model = Logits(DeiTForImageClassificationWithTeacher(config)).to(torch.bfloat16)
    return model, {'image': torch.rand(2, 3, 64, 64, dtype=torch.bfloat16)}


def convnext():
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1])
    return Logits(ConvNextForImageClassification(config)), _image(61, 75)


def resnet():
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], num_labels=10
    )
    return Bytes(ResNetForImageClassification(config)), _bytes(67, 61)


def regnet():
    from transformers import RegNetConfig, RegNetForImageClassification

    config = RegNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], groups_width=8,
        num_labels=10,
    )  # fmt: skip
    return Bytes(RegNetForImageClassification(config)), _bytes(63, 65)


def mobilenet():
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(depth_multiplier=0.25, image_size=64)
    model = Logits(MobileNetV2ForImageClassification(config)).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 65, 71).to(memory_format=torch.channels_last)
    return model, {'image': image}


def swin():
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return Logits(SwinForImageClassification(config)), _image(64, 64)


def segformer():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=32, num_labels=6,
    )  # fmt: skip
    return Labels(SegformerForSemanticSegmentation(config)), _image(97, 131)


def dinov2():
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14
    )
    return Logits(Dinov2Model(config), 'last_hidden_state'), _image(84, 112)


def depth_anything():
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config)
    return Logits(model, 'predicted_depth'), _image(56, 84)


def detr():
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1],
        out_features=['stage4'],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=10, num_labels=5,
    )  # fmt: skip
    return Detections(DetrForObjectDetection(config)), _image(96, 128)


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=500, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96,
    )  # fmt: skip
    words = torch.randint(1, 500, (2, 24))
    mask = torch.ones_like(words)
    mask[1, 15:] = 0
    return BertForSequenceClassification(config), {'input_ids': words, 'attention_mask': mask}


def transformer():
    """PyTorch's own encoder, whose evaluation takes a fast path."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return Encoder(nn.TransformerEncoder(layer, 2)), {'image': torch.randn(2, 17, 32)}


class Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        return self.model(image)


PUBLIC = {
    each.__name__: each
    for each in (
        vit, deit, convnext, resnet, regnet, mobilenet, swin, segformer, dinov2, depth_anything,
        detr, bert, transformer,
    )
}  # fmt: skip


def _image(height: int, width: int) -> dict[str, Tensor]:
    return {'image': torch.rand(1, 3, height, width)}


def _bytes(height: int, width: int) -> dict[str, Tensor]:
    return {'image': torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)}


def build_public(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model ``name`` of ``PUBLIC`` with weights and an input made from ``seed``."""
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model, inputs = PUBLIC[name]()
        return model.eval(), inputs
    finally:
        torch.random.set_rng_state(state)
