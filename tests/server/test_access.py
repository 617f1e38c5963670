"""Who may do what: every address for every role, tokens, sessions, pages of others, and what browsers are told."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from serving import Running, running, settings_for

from goodparts.server.access import accounts, attempts, tokens
from goodparts.server.access.permissions import PERMISSIONS, ROLES, permissions_of
from goodparts.server.faults import TooMany
from goodparts.server.history import schema
from goodparts.server.history.writer import Transaction

PASSWORD = "a long password"
NONE = "0" * 32

# Every address: (method, place, what it needs; None: whoever is logged in; "": nothing).
MATRIX = (
    ("POST", "/api/v1/models/disc/inspections", "inspect"),
    ("POST", "/api/v1/models/disc/batches", "inspect"),
    ("GET", "/api/v1/inspections", "read"),
    ("GET", f"/api/v1/inspections/{NONE}", "read"),
    ("GET", f"/api/v1/inspections/{NONE}/image", "read"),
    ("GET", f"/api/v1/inspections/{NONE}/panel.png", "read"),
    ("GET", f"/api/v1/inspections/{NONE}/reviews", "read"),
    ("POST", f"/api/v1/inspections/{NONE}/reviews", "review"),
    ("GET", f"/api/v1/inspections/{NONE}/view.jpg", "read"),
    ("GET", f"/api/v1/inspections/{NONE}/nearest?x=1&y=1", "read"),
    ("GET", f"/api/v1/models/disc/good.jpg?name=1&version={NONE}{NONE}", "read"),
    ("GET", "/api/v1/defect-classes", "read"),
    ("GET", "/api/v1/disagreements", "read"),
    ("GET", "/api/v1/counts?from=2026-11-29", "read"),
    ("GET", "/api/v1/export", "export"),
    ("GET", "/api/v1/models", "read"),
    ("GET", "/api/v1/models/disc", "read"),
    ("GET", "/api/v1/models/disc/drift", "read"),
    ("POST", "/api/v1/models/disc/activate", "models"),
    ("POST", "/api/v1/models/disc/threshold", "models"),
    ("GET", "/api/v1/models/disc/decision", "read"),
    ("GET", "/api/v1/models/disc/card", "read"),
    ("GET", "/api/v1/system", "read"),
    ("GET", "/api/v1/learning/disc", "models"),
    ("POST", "/api/v1/learning/disc", "models"),
    ("POST", "/api/v1/learning/disc/images", "models"),
    ("DELETE", "/api/v1/learning/disc/images", "models"),
    ("GET", "/api/v1/learning/disc/check", "models"),
    ("POST", "/api/v1/learning/disc/stop", "models"),
    ("GET", "/api/v1/models/disc/reviewed", "read"),
    ("GET", "/api/v1/me", None),
    ("POST", "/api/v1/me/password", None),
    ("POST", "/api/v1/logout", None),
    ("GET", "/api/v1/accounts", "administer"),
    ("POST", "/api/v1/accounts", "administer"),
    ("PATCH", "/api/v1/accounts/nobody-yet", "administer"),
    ("GET", "/api/v1/tokens", None),
    ("POST", "/api/v1/tokens", None),
    ("DELETE", "/api/v1/tokens/0123456789abcdef", None),
    ("GET", "/api/v1/events", "read"),
    ("GET", "/api/v1/audit/head", "audit"),
    ("GET", "/api/v1/audit", "audit"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/healthz", ""),
    ("GET", "/readyz", ""),
    ("POST", "/api/v1/login", ""),
    ("GET", "/api/v1/openapi.json", ""),
)
BODIES: dict[str, Any] = {
    "/api/v1/models/disc/activate": {"version": "0" * 64},
    f"/api/v1/inspections/{NONE}/reviews": {"label": "GOOD"},
    "/api/v1/accounts": {"name": "x", "password": "short", "role": "operator"},
    "/api/v1/accounts/nobody-yet": {},
    "/api/v1/tokens": {"name": "x", "scopes": ["none"]},
    "/api/v1/me/password": {"old": "wrong", "new": "also a long one"},
    "/api/v1/login": {"account": "nobody", "password": "wrong"},
}


@pytest.fixture(scope="module")
def tokens_of(live: Running) -> dict[str, str]:
    """An account of each role, and a token of each with all that it may do."""
    found = {}
    for role in ROLES:

        def make(transaction: Transaction, role: str = role) -> str:
            accounts.add(transaction, "test", role, PASSWORD, role)
            return tokens.add(transaction, "test", role, "test", permissions_of(role), 1, role)[0]

        found[role] = live.service.commit(make)
    return found


@pytest.fixture(autouse=True)
def unslowed(request: pytest.FixtureRequest) -> None:
    """Each test may log in as if none had before."""
    for name in ("live", "lone"):
        if name in request.fixturenames:
            request.getfixturevalue(name).service.attempts._full.clear()


def test_every_address_is_in_the_matrix(live: Running) -> None:
    with live.http("") as http:
        document = http.get("/api/v1/openapi.json").json()
    told = {
        (method.upper(), place.replace("{model}", "disc").replace("{name}", "nobody-yet"))
        for place, methods in document["paths"].items()
        for method in methods
    }
    told = {
        (method, place.replace("{inspection}", NONE).replace("{picture}", "panel")) for method, place in told
    }
    told = {(method, place.replace("{token}", "0123456789abcdef")) for method, place in told}
    assert told == {(method, place.split("?")[0]) for method, place, _ in MATRIX} - {
        ("GET", "/api/v1/openapi.json")
    }


@pytest.mark.parametrize(("method", "place", "needed"), MATRIX)
def test_each_role_may_do_what_it_may(
    live: Running, tokens_of: dict[str, str], method: str, place: str, needed: str | None
) -> None:
    body = BODIES.get(place)
    for role in (None, *ROLES):
        with live.http(tokens_of[role] if role else "") as http:
            status = http.request(method, place, json=body).status_code
        if needed == "":
            assert status in (200, 401 if "login" in place else 200), (role, status)
        elif role is None:
            assert status == 401
        elif needed is not None and needed not in permissions_of(role):
            assert status == 403, (role, status)
        else:
            own = {"/api/v1/me/password", "/api/v1/tokens"}  # not with a token
            assert status not in (401, 500), (role, status)
            assert status != 403 or place in own, (role, status)


def test_roles_have_ever_more(tokens_of: dict[str, str]) -> None:
    sets = [permissions_of(role) for role in ROLES]
    assert all(less < more for less, more in pairwise(sets))
    assert sets[-1] == set(PERMISSIONS)
    assert permissions_of("king") == frozenset()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer gp_0123456789abcdef_" + "A" * 43,
        "Bearer gp_" + "0" * 16 + "_" + "A" * 42 + "é",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer " + "g" * 5000,
        "bearer\tgp_",
    ],
)
def test_a_malformed_or_unknown_token_is_nobody(live: Running, header: str) -> None:
    with live.http("") as http:
        answer = http.get("/api/v1/me", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_secret_is_nobody(live: Running) -> None:
    wrong = live.token[:-1] + ("A" if live.token[-1] != "A" else "B")
    with live.http(wrong) as http:
        assert http.get("/api/v1/me").status_code == 401


def test_a_token_ends(live: Running, tokens_of: dict[str, str]) -> None:
    with live.login() as browser:
        made = browser.post("/api/v1/tokens", json={"name": "line 3", "scopes": ["read"], "days": 1})
        assert made.status_code == 201
        token, identifier = made.json()["token"], made.json()["id"]
        assert token not in browser.get("/api/v1/tokens").text
        with live.http(token) as http:
            assert http.get("/api/v1/models").status_code == 200
            assert http.post("/api/v1/models/disc/inspections", content=b"x").status_code == 403
            assert http.post("/api/v1/tokens", json={"name": "y", "scopes": ["read"]}).status_code == 403
            with live.http(tokens_of["operator"]) as other:
                assert other.delete(f"/api/v1/tokens/{identifier}").status_code == 404  # not theirs
            assert browser.delete(f"/api/v1/tokens/{identifier}").status_code == 204
            assert http.get("/api/v1/models").status_code == 401


def test_an_expired_token_is_nobody(live: Running) -> None:
    def make(transaction: Transaction) -> str:
        token, row = tokens.add(transaction, "test", "admin", "old", ["read"], 1, "administrator")
        table = schema.tokens
        past = table.update().where(table.c.id == row["id"]).values(expires=int(time.time() * 1e6) - 1)
        transaction.connection.execute(past)
        return token

    with live.http(live.service.commit(make)) as http:
        assert http.get("/api/v1/me").status_code == 401


def test_a_token_has_no_more_than_its_accounts_role(live: Running, tokens_of: dict[str, str]) -> None:
    with live.login("operator", PASSWORD) as browser:
        answer = browser.post("/api/v1/tokens", json={"name": "x", "scopes": ["administer"]})
        assert answer.status_code == 422
        assert "more than the role operator" in answer.json()["error"]["message"]
    with live.http(tokens_of["engineer"]) as http, live.login() as admin:
        assert http.get("/api/v1/audit/head").status_code == 200
        assert admin.patch("/api/v1/accounts/engineer", json={"role": "operator"}).status_code == 200
        assert http.get("/api/v1/audit/head").status_code == 403
        assert admin.patch("/api/v1/accounts/engineer", json={"active": False}).status_code == 200
        assert http.get("/api/v1/models").status_code == 401
        admin.patch("/api/v1/accounts/engineer", json={"role": "engineer", "active": True})


def test_a_session_is_a_strict_cookie(live: Running) -> None:
    with live.http("") as http:
        answer = http.post("/api/v1/login", json={"account": "admin", "password": live.password})
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        csrf = answer.json()["csrf"]
        body = {"name": "x", "scopes": ["read"], "days": 1}
        assert http.post("/api/v1/tokens", json=body).status_code == 403
        assert http.post("/api/v1/tokens", json=body, headers={"X-CSRF-Token": csrf[:-1]}).status_code == 403
        assert http.post("/api/v1/tokens", json=body, headers={"X-CSRF-Token": csrf}).status_code == 201
        assert http.get("/api/v1/me").json()["account"] == "admin"
        kept = dict(http.cookies)
        assert http.post("/api/v1/logout", headers={"X-CSRF-Token": csrf}).status_code == 204
        http.cookies.update(kept)
        assert http.get("/api/v1/me").status_code == 401  # over, whoever kept the cookie


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1], lambda text: "x" + text, lambda text: "é.é", str.upper]
)
def test_a_changed_cookie_is_nobody(live: Running, change: Any) -> None:
    with live.login() as browser:
        cookie = change(browser.cookies["goodparts_session"])
    with live.http("") as http:
        headers = {"Cookie": f"goodparts_session={cookie}".encode("latin-1")}
        assert http.get("/api/v1/me", headers=headers).status_code == 401


def test_a_new_password_ends_all_sessions(live: Running, tokens_of: dict[str, str]) -> None:
    with live.login("reviewer", PASSWORD) as browser:
        short = browser.post("/api/v1/me/password", json={"old": PASSWORD, "new": "short"})
        assert short.status_code == 422
        wrong = browser.post("/api/v1/me/password", json={"old": "wrong", "new": "another long one"})
        assert wrong.status_code == 403
        done = browser.post("/api/v1/me/password", json={"old": PASSWORD, "new": "another long one"})
        assert done.status_code == 204
        assert browser.get("/api/v1/me").status_code == 401
    live._browsers.clear()
    with live.login("reviewer", "another long one") as browser:
        assert browser.get("/api/v1/me").json()["role"] == "reviewer"


def test_two_log_ins_a_second_from_one_address_are_slowed(
    live: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.service.attempts, "_seconds", 60)  # however slow this machine is
    statuses = []
    with live.http("") as http:
        for number in range(8):
            answer = http.post("/api/v1/login", json={"account": f"a{number}", "password": "wrong"})
            statuses.append(answer.status_code)
        assert statuses[:5] == [401] * 5
        assert statuses[-1] == 429
        assert int(answer.headers["retry-after"]) >= 1
        right = http.post("/api/v1/login", json={"account": "admin", "password": live.password})
        assert right.status_code == 429  # the right password, too


def test_attempts_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now)
    found = attempts.Attempts(burst=2, seconds=3)
    found.take("a", "b")
    found.take("a")
    with pytest.raises(TooMany) as caught:
        found.take("a")
    assert caught.value.retry_after == 3
    found.take("b")
    now += 3
    found.take("a")
    with pytest.raises(TooMany):
        found.take("a")


def test_the_last_administrator_stays(lone: Running) -> None:
    with lone.login() as browser:
        for change in ({"role": "operator"}, {"active": False}):
            answer = browser.patch("/api/v1/accounts/admin", json=change)
            assert answer.status_code == 409
            assert "last administrator" in answer.json()["error"]["message"]
        second = {"name": "second", "password": PASSWORD, "role": "administrator"}
        assert browser.post("/api/v1/accounts", json=second).status_code == 201
        assert browser.post("/api/v1/accounts", json=second).status_code == 409
        assert browser.patch("/api/v1/accounts/second", json={"active": False}).status_code == 200


def test_what_a_page_of_another_origin_sends_is_refused(live: Running) -> None:
    with live.http() as http:
        place = "/api/v1/models/disc/inspections"
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert http.post(place, content=b"x", headers=headers).status_code == 403, headers
        own = {"Origin": live.address, "Sec-Fetch-Site": "same-origin"}
        assert http.post(place, content=b"x", headers=own).status_code == 422


def test_answers_keep_browsers_strict(live: Running) -> None:
    with live.http() as http:
        for answer in (
            http.get("/healthz"),
            http.get("/nothing"),
            http.get("/api/v1/models"),
            http.post("/healthz"),
        ):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers


def test_without_a_log_in_only_this_machine_is_answered(fitted_file: Path, tmp_path: Path) -> None:
    with running(settings_for(fitted_file, tmp_path, login=False)) as live, live.http("") as http:
        assert http.get("/api/v1/me").json()["role"] == "administrator"
        assert http.get("/api/v1/me", headers={"Host": "evil.example"}).status_code == 403
        assert http.get("/api/v1/me", headers={"Host": "localhost:1"}).status_code == 200
        place = "/api/v1/models/disc/inspections"
        assert http.post(place, content=b"x", headers={"Origin": "http://evil.example"}).status_code == 403


def test_only_the_trusted_proxy_says_who_asks(fitted_file: Path, tmp_path: Path) -> None:
    headers = {"X-Forwarded-User": "mary", "X-Forwarded-Role": "Engineer"}
    settings = settings_for(fitted_file, tmp_path, trusted_proxy="127.0.0.1")
    with running(settings) as live, live.http("") as http:
        assert http.get("/api/v1/me").status_code == 401
        found = http.get("/api/v1/me", headers=headers).json()
        assert (found["account"], found["role"]) == ("mary", "engineer")
        assert http.get("/api/v1/me", headers={"X-Forwarded-User": "mary"}).json()["role"] == "operator"
        assert http.get("/api/v1/me", headers={**headers, "X-Forwarded-Role": "king"}).status_code == 403
        assert http.get("/api/v1/me", headers={**headers, "X-Forwarded-User": "a/../b"}).status_code == 422
        live.service.gate._settings = replace(settings, trusted_proxy="10.0.0.1")
        assert http.get("/api/v1/me", headers=headers).status_code == 401


def test_passwords_and_tokens_are_not_kept_as_they_are(lone: Running) -> None:
    kept = b"".join(path.read_bytes() for path in lone.service.settings.folder.glob("history.sqlite*"))
    assert lone.password.encode() not in kept
    assert lone.token.split("_", 2)[2].encode() not in kept  # the secret may have such lines, too
    assert b"$argon2id$" in kept
