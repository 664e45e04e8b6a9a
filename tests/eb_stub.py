"""A stub of AWS for `eb`: the two dozen calls that it makes, answered on loopback.

    python tests/eb_stub.py DIR     unpack into DIR the bundle that `eb create` uploads

It records each call and refuses unknown ones; moto lacks half of them. The variable EB
is the path of `eb`; without it, the one on the path is used.
"""

import io
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
REGION = "eu-central-1"
BUCKET = f"elasticbeanstalk-{REGION}-123456789012"
BRANCH = "Docker running on 64bit Amazon Linux 2023"
TIME = "2026-01-01T00:00:00Z"
TIMEOUT_SECONDS = 60  # of one `eb`, which takes one or two

Parameters = dict[str, str]
Answer = dict[str, "Answer"] | list["Answer"] | str


class RefusedError(Exception):
    """A call that AWS would refuse, with its message."""


class Aws:
    """An account in one region, initially empty."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Parameters]] = []  # in the order made
        self.objects: dict[str, bytes] = {}  # of S3, by key
        self.applications: set[str] = set()
        self.versions: dict[str, str] = {}  # label: key of the bundle
        self.environments: dict[str, str] = {}  # name: label of the version
        self.events: dict[str, str] = {}  # number of the request: its result
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))

    def eb(self, folder: Path, *arguments: str) -> str:
        """Run `eb` in a folder against this account and nothing else."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),  # without credentials and settings of the user
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # no check for a newer eb
        }
        done = subprocess.run(
            [os.environ.get("EB", "eb"), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"eb {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def bundle(self) -> zipfile.ZipFile:
        """Open the bundle that was uploaded last."""
        return zipfile.ZipFile(io.BytesIO([*self.objects.values()][-1]))

    def answer(self, action: str, sent: Parameters) -> Answer:
        """Record a call and answer it. Raises `RefusedError`."""
        self.calls.append((action, sent))
        if action not in ANSWERS:
            raise RefusedError(f"the stub does not know {action}")
        return ANSWERS[action](self, sent)

    def end(self, message: str) -> None:
        """Record the result of the current request, for `DescribeEvents`."""
        self.events[str(len(self.calls))] = message


@contextmanager
def account() -> Iterator[Aws]:
    """Serve a new account until the block ends."""
    aws = Aws()
    threading.Thread(target=aws.server.serve_forever, daemon=True).start()
    try:
        yield aws
    finally:
        aws.server.shutdown()
        aws.server.server_close()


def create_application(aws: Aws, sent: Parameters) -> Answer:
    aws.applications.add(sent["ApplicationName"])
    return {"Application": {"ApplicationName": sent["ApplicationName"]}}


def create_version(aws: Aws, sent: Parameters) -> Answer:
    """Register a bundle; both it and its application must exist."""
    if sent["ApplicationName"] not in aws.applications:
        name = sent["ApplicationName"]
        raise RefusedError(f"No Application named '{name}' found.")
    key = sent["SourceBundle.S3Key"]
    if sent["SourceBundle.S3Bucket"] != BUCKET or key not in aws.objects:
        raise RefusedError("no such bundle")
    aws.versions[sent["VersionLabel"]] = key
    return {"ApplicationVersion": {"VersionLabel": sent["VersionLabel"]}}


def create_environment(aws: Aws, sent: Parameters) -> Answer:
    put_version(aws, sent)
    aws.end(f"Successfully launched environment: {sent['EnvironmentName']}")
    return describe(aws, sent["EnvironmentName"])


def update_environment(aws: Aws, sent: Parameters) -> Answer:
    """Change the version or the settings."""
    found = describe(aws, sent["EnvironmentName"])
    if "VersionLabel" in sent:
        put_version(aws, sent)
    aws.end("Environment update completed successfully.")
    return found


def put_version(aws: Aws, sent: Parameters) -> None:
    if sent["VersionLabel"] not in aws.versions:
        raise RefusedError("no such version")
    aws.environments[sent["EnvironmentName"]] = sent["VersionLabel"]


def terminate_environment(aws: Aws, sent: Parameters) -> Answer:
    found = describe(aws, sent["EnvironmentName"])
    del aws.environments[sent["EnvironmentName"]]
    aws.end("terminateEnvironment completed successfully.")
    return found


def list_environments(aws: Aws, sent: Parameters) -> Answer:
    wanted = sent.get("EnvironmentNames.member.1")
    names = [name for name in aws.environments if wanted in {None, name}]
    return {"Environments": [describe(aws, name) for name in names]}


def describe(aws: Aws, name: str) -> dict[str, Answer]:
    """Return the description of an environment."""
    if name not in aws.environments:
        raise RefusedError(f"No Environment found for EnvironmentName = '{name}'.")
    arn = f"arn:aws:elasticbeanstalk:{REGION}:123456789012:environment/fashion/{name}"
    return {
        "ApplicationName": "fashion",
        "EnvironmentName": name,
        "EnvironmentArn": arn,
        "VersionLabel": aws.environments[name],
        "SolutionStackName": PLATFORM["PlatformName"],
        "PlatformArn": PLATFORM["PlatformArn"],
        "Status": "Ready",
        "Health": "Green",
        "Tier": {"Name": "WebServer", "Type": "Standard", "Version": "1.0"},
    }


def list_settings(aws: Aws, sent: Parameters) -> Answer:
    balancer = {"LoadBalancerType": "application", "LoadBalancerIsShared": "false"}
    namespace = "aws:elasticbeanstalk:environment"
    options: Answer = [
        {"Namespace": namespace, "OptionName": name, "Value": value}
        for name, value in balancer.items()
    ]
    found = describe(aws, sent["EnvironmentName"])
    return {"ConfigurationSettings": [found | {"OptionSettings": options}]}


def list_events(aws: Aws, sent: Parameters) -> Answer:
    """Return the result of a request, without delay."""
    message = aws.events[sent["RequestId"]]
    return {"Events": [{"EventDate": TIME, "Message": message, "Severity": "INFO"}]}


def list_branches(aws: Aws, sent: Parameters) -> Answer:
    """Return the only branch, if its full name is given."""
    branch: Answer = {"BranchName": BRANCH, "LifecycleState": "Supported"}
    is_requested = sent["Filters.member.1.Values.member.1"] == BRANCH
    return {"PlatformBranchSummaryList": [branch] if is_requested else []}


PLATFORM: dict[str, Answer] = {
    "PlatformArn": f"arn:aws:elasticbeanstalk:{REGION}::platform/{BRANCH}/4.7.0",
    "PlatformName": BRANCH,
    "PlatformVersion": "4.7.0",
    "PlatformBranchName": BRANCH,
    "PlatformLifecycleState": "Recommended",
}
ANSWERS: dict[str, Callable[[Aws, Parameters], Answer]] = {
    "ListAvailableSolutionStacks": lambda aws, sent: {"SolutionStacks": [BRANCH]},
    "ListPlatformBranches": list_branches,
    "ListPlatformVersions": lambda aws, sent: {"PlatformSummaryList": [PLATFORM]},
    "DescribePlatformVersion": lambda aws, sent: {"PlatformDescription": PLATFORM},
    "DescribeApplications": lambda aws, sent: {"Applications": []},
    "CreateApplication": create_application,
    "CreateStorageLocation": lambda aws, sent: {"S3Bucket": BUCKET},
    "DescribeApplicationVersions": lambda aws, sent: {"ApplicationVersions": []},
    "CreateApplicationVersion": create_version,
    "CreateEnvironment": create_environment,
    "DescribeEnvironments": list_environments,
    "DescribeConfigurationSettings": list_settings,
    "UpdateEnvironment": update_environment,
    "TerminateEnvironment": terminate_environment,
    "DescribeEvents": list_events,
    # IAM: the roles of the instances and of the service
    "CreateInstanceProfile": lambda aws, sent: {},
    "CreateRole": lambda aws, sent: {"Role": {"RoleName": sent["RoleName"]}},
    "AttachRolePolicy": lambda aws, sent: {},
    "AddRoleToInstanceProfile": lambda aws, sent: {},
    "ListRoles": lambda aws, sent: {"IsTruncated": "false", "Roles": []},
}


def to_xml(answer: Answer) -> str:
    """Return an answer in XML, as AWS's query protocol has it."""
    if isinstance(answer, dict):
        return "".join(f"<{key}>{to_xml(one)}</{key}>" for key, one in answer.items())
    if isinstance(answer, list):
        return "".join(f"<member>{to_xml(one)}</member>" for one in answer)
    return escape(answer)


def handler(aws: Aws) -> type[BaseHTTPRequestHandler]:
    """Return the class that handles HTTP requests to an account."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Elastic Beanstalk and IAM: a form that names an action."""
            sent = dict(parse_qsl(self.body().decode()))
            action = sent.pop("Action")
            request: dict[str, Answer] = {"RequestId": str(len(aws.calls) + 1)}
            try:
                result = aws.answer(action, sent)
            except RefusedError as refused:
                fault = {"Code": "InvalidParameterValue", "Message": str(refused)}
                self.reply(400, {"ErrorResponse": {"Error": {**fault}, **request}})
                return
            parts: Answer = {f"{action}Result": result, "ResponseMetadata": request}
            self.reply(200, {f"{action}Response": parts})

        def do_PUT(self) -> None:
            """S3: store an object."""
            key = urlsplit(self.path).path.removeprefix(f"/{BUCKET}/")
            aws.objects[key] = self.body()
            aws.calls.append(("PutObject", {"Key": key}))
            self.reply(200, "")

        def do_GET(self) -> None:
            """S3: list objects; there is none of that name yet."""
            (prefix,) = parse_qs(urlsplit(self.path).query)["prefix"]
            aws.calls.append(("ListObjects", {"Prefix": prefix}))
            self.reply(200, {"ListBucketResult": ""})

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def reply(self, status: int, answer: Answer) -> None:
            data = to_xml(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Print nothing; `calls` has all requests."""

    return Handler


def snapshot(folder: Path) -> Path:
    """Clone the project into a folder and commit uncommitted changes there."""
    clone = folder / "fashion"
    git("clone", "--quiet", "--no-checkout", str(ROOT), str(clone))
    paths = [f"--git-dir={clone / '.git'}", f"--work-tree={ROOT}"]
    git(*paths, "add", "--all")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    commit = [
        "commit",
        "--quiet",
        "--allow-empty",
        "--no-gpg-sign",
        "--message=as it is",
    ]
    git(*paths, *author, *commit)
    git("-C", str(clone), "checkout", "--quiet", "--force", "-B", "main")
    return clone


def git(*arguments: str) -> str:
    """Run git; return what it printed."""
    done = subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Unpack the bundle into the folder that the command line names."""
    with tempfile.TemporaryDirectory() as folder, account() as aws:
        aws.eb(snapshot(Path(folder)), "create", "fashion-prod")
        (target,) = sys.argv[1:]
        aws.bundle().extractall(target)


if __name__ == "__main__":
    main()
