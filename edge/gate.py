"""Who may come in: the credential, its scope, the tenant the sender claims to be, and the client certificate."""

from edge.authenticate import Authenticator
from edge.client_certificate import identity
from edge.problem import Findings, finding
from edge.settings import TlsSettings
from edge.transport import Request
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.principal import Principal, Scope


class Gate:
    """The checks between the transport limits and the body."""

    def __init__(self, authenticator: Authenticator, tls: TlsSettings) -> None:
        self._authenticator = authenticator
        self._tls = tls

    async def sender(self, request: Request, scope: Scope | None) -> Principal | Findings:
        """The sender, or why it may not pass. `scope` None asks for a valid credential alone.

        Where client certificates are required, the principal is narrowed to the certificate's agent.
        """
        try:
            principal = await self._authenticator.principal(request.fields.get(b"authorization"))
        except NoAnswer as failure:
            return finding(failure.code)
        if principal is None:
            return finding(Code.AUTHENTICATION_REQUIRED)
        if scope is not None and scope not in principal.scopes:
            return finding(Code.SCOPE_DENIED)
        claimed = request.fields.get(b"x-tenant-id")
        if claimed is not None and claimed.decode() != principal.tenant_id:
            return finding(Code.TENANT_MISMATCH, "X-Tenant-Id")
        return self._certified(request, principal) if self._tls.client_ca_file else principal

    def _certified(self, request: Request, principal: Principal) -> Principal | Findings:
        shown = identity(request.client_uris, self._tls.trust_domain)
        if shown is None or shown.tenant_id != principal.tenant_id:
            return finding(Code.TENANT_MISMATCH, "client certificate")
        return narrowed(principal, shown.agent_id) or finding(Code.TENANT_MISMATCH, "client certificate")


def narrowed(principal: Principal, agent_id: str) -> Principal | None:
    """The principal as this agent alone, None when it is another one's."""
    if principal.agent_id not in {None, agent_id}:
        return None
    return Principal(principal.key_id, principal.tenant_id, agent_id, principal.scopes, principal.plan_tier)
