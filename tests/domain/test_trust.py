"""The tenants that a source may name, and the permissions it may give."""

from __future__ import annotations

import pytest

from narthex.domain.trust import Binding, Source, bindings, trust_problems

STAFF = Source(name="staff", tenant="staff", remedy="staff.tenant")
PARTNERS = Source(name="partners", tenants=("acme", "beta-*"), remedy="partners.tenant")
PROVIDER = Source(name="the embedded provider", tenants=("default",), permissions=("*",))


def test_one_source_may_say_anything() -> None:
    """No other source has users."""
    assert list(trust_problems([Source(name="only")])) == []
    (only,) = bindings([Source(name="only")])
    assert only.may_name("anything") and only.granted(["admin", "operator"], "any") == ("admin", "operator")


def test_an_unbound_source_beside_another_is_ambiguous() -> None:
    """The message names both and the setting that binds it."""
    (problem,) = trust_problems([STAFF, Source(name="partners", remedy="issuers[1].tenant")])
    assert problem.startswith("Partners may name any tenant") and "staff" in problem
    assert problem.endswith("Set issuers[1].tenant.")


@pytest.mark.parametrize(
    "other",
    [
        Source(name="b", tenants=("staff",)),
        Source(name="b", tenant="staff"),
    ],
)
def test_a_reserved_tenant_is_nobody_elses(other: Source) -> None:
    """Neither a list nor a second reservation may name it."""
    assert any("staff" in problem for problem in trust_problems([STAFF, other]))


def test_a_pattern_never_reaches_a_reserved_tenant() -> None:
    """`st*` beside the tenant `staff` is no ambiguity, because the reservation wins."""
    sources = [STAFF, Source(name="b", tenants=("st*",))]
    assert list(trust_problems(sources)) == []
    _, other = bindings(sources)
    assert other.may_name("stock") and not other.may_name("staff")


def test_sharing_is_said_by_both_with_the_same_entry() -> None:
    """Overlapping patterns are a slip; the same entry twice is a decision."""
    assert list(trust_problems([PARTNERS, Source(name="b", tenants=("beta-1",))]))
    assert list(trust_problems([Source(name="a", tenants=("be*",)), Source(name="b", tenants=("beta-*",))]))
    assert list(trust_problems([PARTNERS, Source(name="b", tenants=("beta-*",))])) == []


def test_patterns_match_their_tenants_and_no_others() -> None:
    """`*` stands for the rest, and only at the end of an entry that has one."""
    binding = bindings([PARTNERS, STAFF])[0]
    named = [name for name in ("acme", "beta-1", "beta-", "acme2", "beta", "staff") if binding.may_name(name)]
    assert named == ["acme", "beta-1", "beta-"]


def test_operator_is_given_by_name_only_where_there_are_several_sources() -> None:
    """A tenant's own issuer may make its administrators; the process's operators are named in settings."""
    binding = bindings([STAFF, PARTNERS])[0]
    assert binding.granted(["chat", "admin", "operator"], "staff") == ("chat", "admin")
    named = bindings([Source(name="a", tenant="a", permissions=("chat", "operator")), STAFF])[0]
    assert named.granted(["chat", "admin", "operator"], "a") == ("chat", "operator")


def test_admin_of_a_shared_tenant_is_given_by_name_only() -> None:
    """Either source could administer the other's users."""
    shared = [Source(name="a", tenants=("x",)), Source(name="b", tenants=("x",), permissions=("admin",))]
    one, other = bindings(shared)
    assert one.granted(["admin"], "x") == ()
    assert "admin" in other.granted(["admin"], "x")


def test_with_one_tenant_its_admin_is_the_operator() -> None:
    """Of one source or of several; a tenant by claim may be any, so there it is not."""
    (own,) = bindings([PROVIDER])
    assert own.granted(["admin"], "default") == ("admin", "operator")
    assert own.granted(["admin"], "other") == ("admin",)
    assert bindings([Source(name="only")])[0].granted(["admin"], "default") == ("admin",)
    assert bindings([STAFF, PROVIDER])[0].sole_tenant == ""
    assert bindings([Source(name="only", tenants=("a*",))])[0].sole_tenant == ""


def test_plans_are_bound_too() -> None:
    """Unset: any; a list: those."""
    assert Binding().may_plan("enterprise")
    bound = Binding(plans=frozenset({"free"}))
    assert bound.may_plan("free") and not bound.may_plan("enterprise")


def test_exactly_sixty_four_permissions_are_kept_and_of_more_those_that_count() -> None:
    """At the limit nothing is dropped; above it the administrator's right is not among the dropped."""
    names = [f"r{number}" for number in range(64)]
    assert Binding().granted(names, "t") == tuple(names)
    found = Binding().granted([*names, "admin"], "t")
    assert len(found) == 64 and found[0] == "admin" and found[1:] == tuple(names[:63])
