"""How much one caller, or all together, may ask of the turbo front end; tests/services/headrace/test_turbo_attacks.py asks for more."""

import ngh2

from headrace.errors import ResourceExhausted

STREAM_WINDOW = 1 << 20  # bytes of a call that come unasked
CONNECTION_WINDOW = 256 << 20
MOST_STREAMS = 1_000  # on one connection; how many are served is not said here
MESSAGE_BYTES = 64  # what a message that waits for its handler takes beside its own bytes
MOST_CONNECTIONS = 10_000
MOST_HEADER_BYTES = 16 << 10  # of a call, with 32 for each header (RFC 9113, 10.5.1); as grpcio's
MOST_IDLE_FRAMES = 1_000  # in a second: pings, settings, and data frames without data
MOST_UNREAD_BYTES = (
    256 << 20
)  # of answers that a caller does not read; then it may not call again on this connection
HELD_BYTES = 256 << 20  # of requests of all callers that have not come as a whole
HELD_MESSAGES = 8  # or so many of the largest messages, if that is more

SETTINGS = {
    ngh2.Setting.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
    ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    ngh2.Setting.MAX_FRAME_SIZE: 1 << 20,
    ngh2.Setting.MAX_HEADER_LIST_SIZE: MOST_HEADER_BYTES,
    ngh2.Setting.ENABLE_PUSH: 0,
}

CONFIGURATION = ngh2.Configuration(
    auto_window_update=False,
    # Callers whose time is over break their calls off, many at once when the server is slow: 10,000 in a burst, then 2,000 a second.
    # Each costs about 30 us (CVE-2023-44487).
    stream_reset_rate_limit=(10_000, 2_000),
    glitch_rate_limit=(
        1_000,
        100,
    ),  # frames that make no sense, each answered by a reset or by nothing (CVE-2025-8671)
    max_continuations=8,  # CVE-2024-27316
    max_outbound_ack=MOST_IDLE_FRAMES,  # CVE-2019-9512, CVE-2019-9515
    max_settings=32,  # in one frame: CVE-2020-11080
    max_inbound_header_list_size=4
    * MOST_HEADER_BYTES,  # ends the connection; up to there only the call is refused
)


class HeldBytes:
    """What the front end holds of requests that have not come as a whole.

    Args:
        limit: Most bytes of all callers together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def change(self, difference: int) -> None:
        """Take note of bytes that have come, or are gone.

        Raises:
            ResourceExhausted: It is too much; the bytes are counted nevertheless until they are gone.
        """
        self.bytes += difference
        if difference > 0 and self.bytes > self.limit:
            raise ResourceExhausted(
                f"{self.bytes} bytes of requests are on their way to the server; send again later",
                metadata={"limit": self.limit},
                retry_after_s=1.0,
            )
