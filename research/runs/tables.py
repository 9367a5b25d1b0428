"""The names of data sources, tasks and models in configs: the one place that a new one is added to."""

from research.data.algorithmic import Algorithmic
from research.data.captions import Captions
from research.data.coco import Coco
from research.data.conll import Conll
from research.data.digits import Digits
from research.data.image_folder import ImageFolder
from research.data.image_masks import ImageMasks
from research.data.listops import ListOps
from research.data.mixture import Mixture
from research.data.modular import Modular
from research.data.phrasebook import Phrasebook
from research.data.python_docs import PythonDocs
from research.data.scan import Scan
from research.data.scenes import Scenes
from research.data.squad import Squad
from research.data.stories import Stories
from research.data.table import Table
from research.data.text_file import ParallelText, TextFile
from research.data.tfds_source import Tfds
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
from research.tasks.captioning import Captioning
from research.tasks.classification import Classification
from research.tasks.detection import Detection
from research.tasks.image_text import ImageText
from research.tasks.language_modeling import LanguageModeling
from research.tasks.masked_images import MaskedImages
from research.tasks.masked_language import MaskedLanguage
from research.tasks.next_token import NextToken
from research.tasks.packed_classification import PackedClassification
from research.tasks.pretext import Pretext
from research.tasks.question_answering import QuestionAnswering
from research.tasks.segmentation import Segmentation
from research.tasks.sentences import Sentences
from research.tasks.text_classification import TextClassification
from research.tasks.token_classification import TokenClassification
from research.tasks.translation import Translation

SOURCES = {
    "algorithmic": Algorithmic,
    "captions": Captions,
    "coco": Coco,
    "conll": Conll,
    "digits": Digits,
    "image_folder": ImageFolder,
    "image_masks": ImageMasks,
    "listops": ListOps,
    "mixture": Mixture,
    "modular": Modular,
    "parallel_text": ParallelText,
    "phrasebook": Phrasebook,
    "python_docs": PythonDocs,
    "scan": Scan,
    "scenes": Scenes,
    "squad": Squad,
    "stories": Stories,
    "table": Table,
    "text_file": TextFile,
    "tfds": Tfds,
}
TASKS = {
    "captioning": Captioning,
    "classification": Classification,
    "detection": Detection,
    "image_text": ImageText,
    "language_modeling": LanguageModeling,
    "masked_images": MaskedImages,
    "masked_language": MaskedLanguage,
    "next_token": NextToken,
    "packed_classification": PackedClassification,
    "pretext": Pretext,
    "question_answering": QuestionAnswering,
    "segmentation": Segmentation,
    "sentences": Sentences,
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
    "translation": Translation,
}
MODELS = {
    "bert": BERT,
    "captioner": Captioner,
    "decoder": Decoder,
    "detr": DETR,
    "efficientformer": EfficientFormer,
    "gpt": GPT,
    "mae": MAE,
    "mobilenet": MobileNet,
    "resnet": ResNet,
    "rnn": RNNSeq2Seq,
    "segformer": SegFormer,
    "segmenter": Segmenter,
    "seq2seq": Seq2Seq,
    "swin": Swin,
    "transunet": TransUNet,
    "two_towers": TwoTowers,
    "unet": UNet,
    "upernet": UPerNet,
    "vit": ViT,
}
