"""People in the loop: a local page on which they choose between pictures, the votes, and what follows from them."""

from diffalign.annotation.agreement import Agreement, agreement, cohen_kappa, krippendorff_alpha
from diffalign.annotation.comparisons import Comparison, Plan, read_comparisons, read_plan, write_plan
from diffalign.annotation.preferences import Preference, pending, preferences
from diffalign.annotation.server import AnnotationServer, serve
from diffalign.annotation.summary import Summary, summarise, wilson
from diffalign.annotation.votes import Vote, VoteFile, read_votes, tally

__all__ = [
    "Agreement",
    "AnnotationServer",
    "Comparison",
    "Plan",
    "Preference",
    "Summary",
    "Vote",
    "VoteFile",
    "agreement",
    "cohen_kappa",
    "krippendorff_alpha",
    "pending",
    "preferences",
    "read_comparisons",
    "read_plan",
    "read_votes",
    "serve",
    "summarise",
    "tally",
    "wilson",
    "write_plan",
]
