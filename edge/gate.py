"""Who may come in: the credential, its scope, and the tenant the sender claims to be."""

from edge.authenticate import Authenticator
from edge.problem import Findings, finding
from edge.transport import Request
from schemas.answers import NoAnswer
from schemas.codes import Code
from schemas.principal import Principal, Scope


class Gate:
    """The checks between the transport limits and the body."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def sender(self, request: Request, scope: Scope | None) -> Principal | Findings:
        """The sender, or why it may not pass. `scope` None asks for a valid credential alone."""
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
        return principal
