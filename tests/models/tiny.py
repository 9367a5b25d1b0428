"""A tiny model of every name in the table, with inputs, for tests that all models have to pass."""

import jax.numpy as jnp
import numpy as np

from research.models.bert import BERT
from research.models.captioner import Captioner
from research.models.decoder import Decoder
from research.models.detr import DETR
from research.models.efficientformer import EfficientFormer
from research.models.gpt import GPT
from research.models.mae import MAE
from research.models.mobilenet import MobileNet
from research.models.resnet import ResNet
from research.models.rnn import RNNSeq2Seq
from research.models.segformer import SegFormer
from research.models.segmenter import Segmenter
from research.models.seq2seq import Seq2Seq
from research.models.swin import Swin
from research.models.transunet import TransUNet
from research.models.two_towers import TwoTowers
from research.models.unet import UNet
from research.models.upernet import UPerNet
from research.models.vit import ViT

_random = np.random.default_rng(0)
_IMAGES = jnp.asarray(_random.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
_ORDER = jnp.asarray(np.stack([_random.permutation(16) for _ in range(2)]))
_TOKENS = jnp.array([[1, 2, 3, 8], [5, 4, 0, 0]])
_PAIR = (_TOKENS, _TOKENS[:, :3], _TOKENS > 0)

MODELS = {
    "bert": (
        BERT(9, num_layers=2, width=16, num_heads=2, mlp_width=32, max_length=8, head="pretraining"),
        (_TOKENS, _TOKENS > 0),
    ),
    "captioner": (
        Captioner(
            9,
            num_layers=1,
            width=16,
            num_heads=2,
            mlp_width=32,
            image=ViT(0, patch_size=8, width=16, num_layers=1, num_heads=2, mlp_width=32),
        ),
        (_IMAGES, _TOKENS),
    ),
    "decoder": (Decoder(9, num_layers=2, width=16, num_heads=2), (_TOKENS,)),
    "detr": (
        DETR(
            3,
            ResNet(0, depths=(1, 1), bottleneck=False, width=8),
            num_queries=4,
            width=16,
            num_heads=2,
            encoder_layers=1,
            decoder_layers=2,
            mlp_width=32,
        ),
        (_IMAGES,),
    ),
    "efficientformer": (EfficientFormer(3, (1, 1, 1, 2), (8, 8, 16, 16), num_attention=1, resolution=1), (_IMAGES,)),
    "gpt": (GPT(9, num_layers=2, width=16, num_heads=2, max_length=8), (_TOKENS,)),
    "mae": (
        MAE(8, 16, num_layers=1, num_heads=2, mlp_width=32, decoder_width=8, decoder_layers=1, decoder_heads=2),
        (_IMAGES, _ORDER),
    ),
    "mobilenet": (MobileNet(3, multiplier=0.1, head_width=16), (_IMAGES,)),
    "resnet": (ResNet(3, depths=(1, 2), bottleneck=True, width=8), (_IMAGES,)),
    "rnn": (RNNSeq2Seq(9, num_layers=2, width=16), _PAIR),
    "segformer": (SegFormer(3, (8, 8, 16, 16), (1, 1, 1, 1), 8, (1, 2, 2, 4)), (_IMAGES,)),
    "segmenter": (
        Segmenter(
            3, ViT(0, patch_size=8, width=16, num_layers=1, num_heads=2, mlp_width=32), num_layers=1, num_heads=2
        ),
        (_IMAGES,),
    ),
    "seq2seq": (Seq2Seq(9, num_layers=1, width=16, num_heads=2, mlp_width=32), _PAIR),
    "swin": (Swin(3, width=8, depths=(2, 2), num_heads=(2, 4), window=4), (_IMAGES,)),
    "transunet": (
        TransUNet(
            3,
            ResNet(0, depths=(1, 1), bottleneck=False, width=4, stem_level=True),
            ViT(0, patch_size=1, width=16, num_layers=1, num_heads=2, mlp_width=32),
            widths=(8, 8, 4, 4),
        ),
        (_IMAGES,),
    ),
    "two_towers": (
        TwoTowers(
            ViT(0, patch_size=8, width=16, num_layers=1, num_heads=2, mlp_width=32),
            GPT(9, num_layers=1, width=16, num_heads=2, max_length=8),
            width=8,
            bias=-1.0,
        ),
        (_IMAGES, _TOKENS, _TOKENS > 0),
    ),
    "unet": (UNet(3, width=4, depth=2), (_IMAGES,)),
    "upernet": (
        UPerNet(3, Swin(0, width=8, depths=(1, 1), num_heads=(2, 4), window=4, norm_levels=True), width=8),
        (_IMAGES,),
    ),
    "vit": (ViT(3, patch_size=8, width=16, num_layers=2, num_heads=2, mlp_width=32), (_IMAGES,)),
}
