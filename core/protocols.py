"""Numbers of the protocols that IP carries, for whoever tells them apart.

Source: IANA, "Assigned Internet Protocol Numbers".
"""

from __future__ import annotations

PROTO_ICMP, PROTO_TCP, PROTO_UDP = 1, 6, 17
PROTO_DCCP, PROTO_ICMPV6, PROTO_SCTP, PROTO_UDP_LITE = 33, 58, 132, 136

PORTED = (PROTO_TCP, PROTO_UDP, PROTO_SCTP, PROTO_DCCP, PROTO_UDP_LITE)
"""Those whose headers begin with two ports."""
ICMP = (PROTO_ICMP, PROTO_ICMPV6)
"""Those whose headers begin with a type and a code."""
