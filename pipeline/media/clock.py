"""How far a video's pictures reach, told from its packets' times alone."""

from __future__ import annotations

from longtake.pipeline.media.plan import SECOND_NS
from longtake.pipeline.media.probe import VideoStream, to_ns


class PictureClock:
    """Follows the shown packets of a video, in any order, and knows where its last picture's time is over.

    A last picture without a stated duration lasts as long as the one before it.
    """

    def __init__(self, video: VideoStream) -> None:
        self._video = video
        self._last = -1
        self._before = -1
        self._duration = 0

    def note(self, pts: int, duration: int | None) -> None:
        """Take one shown packet; `pts` counts from the first picture, both in the stream's time base."""
        if pts > self._last:
            self._before, self._last, self._duration = self._last, pts, duration or 0
        elif self._before < pts < self._last:
            self._before = pts

    @property
    def last_pts(self) -> int:
        """The latest presentation time that was met, in the stream's time base; -1 before any."""
        return self._last

    @property
    def reached_ns(self) -> int:
        """The latest presentation time that was met."""
        return to_ns(max(0, self._last), self._video.time_base)

    @property
    def end_ns(self) -> int:
        """Where the last picture's time is over; 0 where there was no picture."""
        if self._last < 0:
            return 0
        duration = self._duration
        if duration <= 0 and self._before >= 0:
            duration = self._last - self._before
        if duration <= 0:
            return self.reached_ns + int(SECOND_NS / (self._video.average_rate_hz or 25.0))
        return to_ns(self._last + duration, self._video.time_base)
