"""An identity: which permissions it has, and when two of them are one user's."""

from __future__ import annotations

import pytest

from narthex.domain.identity import ADMIN, OPERATOR, Identity


@pytest.mark.parametrize(
    ("granted", "permission", "may"),
    [
        ((), "export", False),
        (("export",), "export", True),
        (("export",), ADMIN, False),
        (("export",), OPERATOR, False),
        ((ADMIN,), "export", True),
        ((ADMIN,), ADMIN, True),
        ((ADMIN,), OPERATOR, False),
        ((OPERATOR,), OPERATOR, True),
        ((OPERATOR,), "export", False),
    ],
)
def test_a_permission_is_granted_by_name_and_admin_grants_all_but_operator(
    granted: tuple[str, ...], permission: str, may: bool
) -> None:
    """An administrator's rights end with the tenant; the operator's are granted by name only."""
    assert Identity(subject="ann", permissions=granted).may(permission) is may


def test_a_user_is_a_subject_of_a_tenant() -> None:
    """Neither name alone makes two identities one user's; everything else about them may differ."""
    ann = Identity(subject="ann", tenant="acme")
    assert ann.same_user(Identity(subject="ann", tenant="acme", plan="large", session="s"))
    assert not ann.same_user(Identity(subject="bob", tenant="acme"))
    assert not ann.same_user(Identity(subject="ann", tenant="other"))
