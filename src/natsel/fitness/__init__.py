"""How fit each population is: signals that are local and cheap, one file a family."""

from natsel.fitness import activation, gradient, joint, magnitude, obs, taylor  # noqa: F401
from natsel.fitness.depth.registry import BRANCH_SCORERS, BranchScorer
from natsel.fitness.experts import EXPERT_SCORERS, ExpertScorer
from natsel.fitness.registry import FITNESS, Fitness, Parts, get, register
from natsel.fitness.score import Scores, score, score_all

__all__ = [
    "BRANCH_SCORERS",
    "EXPERT_SCORERS",
    "FITNESS",
    "BranchScorer",
    "ExpertScorer",
    "Fitness",
    "Parts",
    "Scores",
    "get",
    "register",
    "score",
    "score_all",
]
