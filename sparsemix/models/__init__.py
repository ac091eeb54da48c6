"""Models built from the layer: the decoder language model, its parts, its initialisation and its counts."""

from sparsemix.models.attention import AttentionConfig
from sparsemix.models.cross_entropy import chunked_cross_entropy, token_losses
from sparsemix.models.decoder import Decoder, DecoderConfig, DecoderOutput
from sparsemix.models.depth import DepthConfig
from sparsemix.models.init import InitConfig, initialize
from sparsemix.models.primitives import evaluating
from sparsemix.models.recurrent import MoELSTM, MoELSTMConfig, MoERNN, MoERNNConfig
from sparsemix.models.rotary import YarnConfig

__all__ = [
    "AttentionConfig",
    "Decoder",
    "DecoderConfig",
    "DecoderOutput",
    "DepthConfig",
    "InitConfig",
    "MoELSTM",
    "MoELSTMConfig",
    "MoERNN",
    "MoERNNConfig",
    "YarnConfig",
    "chunked_cross_entropy",
    "evaluating",
    "initialize",
    "token_losses",
]
