"""The built-in strategies, one file each."""

from strategies.adaptive import Adaptive
from strategies.autoregressive import Autoregressive
from strategies.elastic import Elastic
from strategies.hedged import Hedged
from strategies.pearl import Pearl
from strategies.prompt_lookup import PromptLookup
from strategies.saguaro import Saguaro
from strategies.speculative import Speculative
from strategies.suffix import Suffix

__all__ = ["Adaptive", "Autoregressive", "Elastic", "Hedged", "Pearl", "PromptLookup", "Saguaro", "Speculative", "Suffix"]
