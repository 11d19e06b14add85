"""Options of the built-in synthetic worlds.

There are two worlds. Both have the same users, videos, logging policy and questionnaire, and write the same kind of
files. In World 1 a video determines most of its satisfaction, and every action reads satisfaction closely. World 2 is
calibrated to public logs. `datasets/world/README.md` has the formulas of both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

from easq_rec.config.schema import require

DEFAULT_VERSION: Literal[1, 2] = 1
"""The world of a config that does not choose one: of the recipes and of the command line."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A built-in synthetic world, used when no --data is given.

    The options from `item_share` on are those of World 2; World 1 refuses other values than their defaults.
    """

    version: Literal[1, 2] = DEFAULT_VERSION
    """1: satisfaction depends mostly on the video, and every action follows it. 2: calibrated to public logs."""
    requests: int = 40_000
    """Requests in the log."""
    users: int = 4_000
    """Users in the world."""
    videos: int = 8_000
    """Videos in the world."""
    candidates: int = 12
    """Candidates per request."""
    history: int = 50
    """Maximum length of a written history, in entries."""
    exposure: float = 0.005
    """Share of triggered impressions on which the prompt is shown."""
    response: float = 0.02
    """Share of shown prompts that are answered."""
    density: float = 1.0
    """Number of answers relative to exposure * response (the paper's: one triggered impression in ten thousand). The
    exposure rises first, up to 1, then the response rate."""
    rho: float | None = None
    """Correlation between satisfaction and the engagement logit under the logging policy; it sets the weight of
    clickbait in satisfaction. None: a weight of 0.8. Only World 1 has it."""
    days: float = 14.0
    """Length of the time line, in days."""
    seed: int = 0
    """The same seed gives the same world."""
    trigger_watch_s: float = 7.0
    """An impression watched for longer than this, in seconds, triggers the questionnaire. The definition of a long view
    does not change with it."""
    trigger_progress: float = 0.5
    """An impression watched beyond this share of the video's length also triggers the questionnaire."""
    response_progress: float = 0.0
    """Dependence of the response on watching: the log-odds of an answer to a shown prompt rise by this number from the
    beginning of the video to its end, with the given rate at half; 0: no dependence."""
    questionnaire_seed: int | None = None
    """Seed of a separate random stream for the questionnaire: worlds that differ only in the questionnaire then have
    the same requests. None: the questionnaire uses the log's stream."""

    item_share: float = 0.16
    """World 2: share of the variance of satisfaction that two impressions of one video, by different users, have in
    common. Source: ratings of MovieLens-100K."""
    user_share: float = 0.20
    """World 2: share of the variance of satisfaction that two impressions of one user, of different videos, have in
    common. Source: ratings of MovieLens-100K."""
    taste_share: float = 0.30
    """World 2: share of the variance of satisfaction that is the user's taste for the video's topics, which a ranker
    can learn. What remains of 1 is an effect of the pair of user and video that nothing predicts. Assumed; the rest is
    above the share of variance by which one person's repeated ratings differ (0.17: Hill et al. 1995, CHI)."""
    play_slope: float = 0.3
    """World 2: increase of the log-odds of a valid play and of a long view, per standard deviation of satisfaction.
    Assumed: engagement and satisfaction then correlate as in World 1."""
    like_slope: float = 1.3
    """World 2: the same of a like. Source: Figure 3 of the paper, which the slopes of all actions reproduce."""
    follow_slope: float = 1.0
    """World 2: the same of a follow. Source: Figure 3 of the paper."""
    comment_slope: float = 0.9
    """World 2: the same of a comment. Source: Figure 3 of the paper."""
    forward_slope: float = 0.8
    """World 2: the same of a forward. Source: Figure 3 of the paper."""
    hate_slope: float = -0.8
    """World 2: the same of a hate. Assumed: as strong as a like."""
    return_slope: float = 0.9
    """World 2: the same of a return on the next day. Source: Figure 3 of the paper."""
    clickbait_plays: float = 0.3
    """World 2: increase of the log-odds of a valid play and of a long view, per standard deviation of the video's
    clickbait. Assumed."""
    clickbait_likes: float = 0.3
    """World 2: increase of the log-odds of a like and of a follow, per standard deviation of the video's clickbait.
    Assumed."""
    clickbait_satisfaction: float = -0.3
    """World 2: correlation of a video's part in satisfaction with its clickbait; 0: clickbait does not tell whether a
    video satisfies. Assumed."""
    like_spread: float = 2.9
    """World 2: standard deviation over users of the log-odds of a like, apart from satisfaction. Source: the share of
    the user in the likes of KuaiRand-Pure."""
    response_spread: float = 1.0
    """World 2: standard deviation over users of the log-odds of an answer to a shown prompt. Assumed."""
    response_satisfaction: float = 0.0
    """World 2: increase of the log-odds of an answer to a shown prompt, per standard deviation of satisfaction; above
    0, satisfied users answer more often. The mean response rate does not change. Assumed."""
    answer_noise: float = 0.5
    """World 2: standard deviation of the noise that is added to satisfaction before it becomes an answer; satisfaction
    has standard deviation 1. Source: repeated ratings correlate by 0.83 (Hill et al. 1995, CHI), which is 0.45."""
    satisfied_misreport: float = 0.0
    """World 2: probability that an answer that would be `satisfied` is given as `dissatisfied`. Assumed."""
    dissatisfied_misreport: float = 0.0
    """World 2: probability that an answer that would be `dissatisfied` is given as `satisfied`. Assumed."""
    careless_users: float = 0.0
    """World 2: share of the users who answer carelessly, whatever they think. Assumed."""
    careless: Literal["random", "inverted"] = "random"
    """World 2: answers of careless users. random: each class as often as in the answers of all impressions. inverted:
    `satisfied` in place of `dissatisfied`, and the reverse. Assumed."""
    bought_videos: float = 0.0
    """World 2: share of the videos whose likes and follows are bought. Assumed."""
    bought_likes: float = 3.0
    """World 2: increase of the log-odds of a like and of a follow on these videos, whether or not they are played and
    whatever the user thinks. Other videos keep their likes, so the rate of all likes rises. Assumed."""
    item_drift: float = 0.3
    """World 2: share of the variance of a video's effects, on satisfaction and plays, that changes over time: effects a
    week apart correlate by 1 minus this share. Source: valid plays of KuaiRand-Pure, in which the correlation of two
    plays of a video falls with their distance in time."""
    taste_drift: float = 0.1
    """World 2: share of the variance of users' tastes that changes over time: tastes a week apart correlate by 1 minus
    this share. Assumed."""

    @property
    def identity(self) -> dict[str, object]:
        """The options of this version as JSON values: worlds with equal identities are equal.

        World 1 has the same identity as before there was another world. So has a world without
        careless users, or without bought likes, as before there were such worlds.
        """
        values = asdict(self)
        other = {"version", *SECOND_KNOBS} if self.version == 1 else {"rho"}
        if not self.careless_users:
            other |= {"careless_users", "careless"}
        if not self.bought_videos:
            other |= {"bought_videos", "bought_likes"}
        return {name: value for name, value in values.items() if name not in other}

    @property
    def requests_identity(self) -> dict[str, object]:
        """The options that determine the requests, without those of the questionnaire."""
        if self.questionnaire_seed is None:
            return self.identity
        return {name: value for name, value in self.identity.items() if name not in QUESTIONNAIRE_KNOBS}

    @property
    def shown_rate(self) -> float:
        """Share of triggered impressions on which the prompt is shown."""
        return min(self.exposure * self.density, 1.0)

    @property
    def answer_rate(self) -> float:
        """Share of triggered impressions that get an answer."""
        return self.exposure * self.response * self.density

    def __post_init__(self) -> None:
        require(self.version in (1, 2), "world.version", self.version, "1 or 2")
        for name in ("requests", "users", "videos", "candidates", "history"):
            require(getattr(self, name) >= 1, f"world.{name}", getattr(self, name), "at least 1")
        require(self.candidates <= self.videos, "world.candidates", self.candidates, "at most world.videos")
        for name in ("exposure", "response"):
            require(0 <= getattr(self, name) <= 1, f"world.{name}", getattr(self, name), "between 0 and 1")
        most = f"0 or more, and at most {1 / max(self.exposure * self.response, 1e-300):g}: 1 / (exposure * response)"
        require(self.density >= 0 and self.answer_rate <= 1, "world.density", self.density, most)
        require(self.rho is None or -1 <= self.rho <= 1, "world.rho", self.rho, "a correlation")
        require(self.seed >= 0, "world.seed", self.seed, "0 or more")
        require(self.days > 0, "world.days", self.days, "more than 0")
        for name in ("trigger_watch_s", "trigger_progress", "response_progress"):
            require(getattr(self, name) >= 0, f"world.{name}", getattr(self, name), "0 or more")
        if self.questionnaire_seed is not None:
            seed = self.questionnaire_seed
            require(seed >= 0, "world.questionnaire_seed", seed, "0 or more, or None")
        if self.version == 1:
            defaults = {field.name: field.default for field in fields(self)}
            for name in SECOND_KNOBS:
                value, left = getattr(self, name), defaults[name]
                allowed = f"left at {left!r} with world.version=1: only World 2 has it (world.version=2)"
                require(value == left, f"world.{name}", value, allowed)
        else:
            self._check_second()

    def _check_second(self) -> None:
        """Raises UserError that names an option that World 2 does not have, or a value that it cannot have."""
        require(self.rho is None, "world.rho", self.rho, "None with world.version=2: use world.play_slope")
        for name in SHARES:
            require(0 <= getattr(self, name) <= 1, f"world.{name}", getattr(self, name), "between 0 and 1")
        total = self.item_share + self.user_share + self.taste_share
        names = "world.item_share + world.user_share + world.taste_share"
        require(total <= 1 + 1e-9, names, round(total, 9), "at most 1, the whole variance of satisfaction")
        for name in SLOPES:
            value = getattr(self, name)
            allowed = f"between -{MOST_LOG_ODDS} and {MOST_LOG_ODDS}"
            require(abs(value) <= MOST_LOG_ODDS, f"world.{name}", value, allowed)
        for name in SPREADS:
            value = getattr(self, name)
            require(0 <= value <= MOST_LOG_ODDS, f"world.{name}", value, f"between 0 and {MOST_LOG_ODDS}")
        require(self.careless in ("random", "inverted"), "world.careless", self.careless, "'random' or 'inverted'")
        bait = self.clickbait_satisfaction
        require(-1 <= bait <= 1, "world.clickbait_satisfaction", bait, "between -1 and 1")


MOST_LOG_ODDS = 5
"""Bound of slopes and spreads. With larger ones no intercept may give the calibrated rates."""
SLOPES = (
    *("play_slope", "like_slope", "follow_slope", "comment_slope", "forward_slope", "hate_slope", "return_slope"),
    *("clickbait_plays", "clickbait_likes", "response_satisfaction", "bought_likes"),
)
SPREADS = ("like_spread", "response_spread", "answer_noise")
SHARES = (
    *("item_share", "user_share", "taste_share", "satisfied_misreport", "dissatisfied_misreport"),
    *("item_drift", "taste_drift", "careless_users", "bought_videos"),
)
SECOND_KNOBS = (*SHARES, *SLOPES, *SPREADS, "clickbait_satisfaction", "careless")
"""Fields of World that only World 2 has."""
QUESTIONNAIRE_KNOBS = {
    *("exposure", "response", "density", "trigger_watch_s", "trigger_progress", "response_progress"),
    *("response_spread", "response_satisfaction", "answer_noise", "satisfied_misreport", "dissatisfied_misreport"),
    *("careless_users", "careless", "questionnaire_seed"),
}
"""Fields of World that change only the questionnaire if it has a separate seed."""
