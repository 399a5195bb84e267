"""A workload's SPIFFE identity in three lines.

    from authsec_sdk import QuickStartSVID

    svid = await QuickStartSVID.initialize()
    context = svid.create_ssl_context_for_client(authorize="spiffe://example.org/payments")
"""

from .context import PeerRefused, any_in_trust_domain
from .quickstart import QuickStartSVID

__all__ = ["PeerRefused", "QuickStartSVID", "any_in_trust_domain"]
