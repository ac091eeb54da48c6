"""Models built from the layer: the decoder language model, its parts, its initialisation and its counts."""

from sparsemix.models.attention import AttentionConfig
from sparsemix.models.cross_entropy import chunked_cross_entropy, token_losses
from sparsemix.models.decoder import Decoder, DecoderConfig, DecoderOutput
from sparsemix.models.depth import DepthConfig
from sparsemix.models.init import InitConfig, initialize
from sparsemix.models.latent_attention import LatentAttentionConfig
from sparsemix.models.masks import WindowConfig
from sparsemix.models.primitives import evaluating
from sparsemix.models.recurrent import MoELSTM, MoELSTMConfig, MoERNN, MoERNNConfig
from sparsemix.models.rope_scaling import LinearRopeConfig, Llama3RopeConfig, YarnConfig

__all__ = [
    "AttentionConfig",
    "Decoder",
    "DecoderConfig",
    "DecoderOutput",
    "DepthConfig",
    "InitConfig",
    "LatentAttentionConfig",
    "LinearRopeConfig",
    "Llama3RopeConfig",
    "MoELSTM",
    "MoELSTMConfig",
    "MoERNN",
    "MoERNNConfig",
    "WindowConfig",
    "YarnConfig",
    "chunked_cross_entropy",
    "evaluating",
    "initialize",
    "token_losses",
]
