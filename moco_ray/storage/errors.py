"""Errors of storage: what trying again may mend, and what to do about the others."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

from moco_ray.storage.uris import shown


class ReadError(OSError):
    """Bytes could not be read or written, though it should be possible, after all retries."""


class NoSpaceError(OSError):
    """The disk, or the user's share of it, is full."""


class Missing(ValueError):
    """There is no such file, folder or bucket."""


class Refused(ValueError):
    """This file or folder may not be read or written; others may."""


class KeysRefused(Refused):
    """The credentials as such are refused, for whatever is asked: expired, unknown, or wrong."""


# Codes of S3 after which other keys of the same provider may work.
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
STALE = EXPIRED | {
    "InvalidToken",
    "InvalidTokenId",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
}

_KEYS_ADVICE = {
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the server does not know this access key; temporary keys need AWS_SESSION_TOKEN beside it",
    "InvalidClientTokenId": "the server does not know these keys; temporary keys need AWS_SESSION_TOKEN beside them",
    "InvalidToken": "the session token is wrong or belongs to other keys; check AWS_SESSION_TOKEN",
    "InvalidTokenId": "the session token is wrong or belongs to other keys; check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ by too much; set this machine's clock (NTP)",
}
_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "301")
# Refusals that a repetition may mend: the request arrived broken, or met another one.
_PASSING = frozenset(
    "RequestTimeout OperationAborted ConditionalRequestConflict IncompleteBody BadDigest NoSuchUpload SlowDown "
    "XAmzContentSHA256Mismatch XAmzContentChecksumMismatch".split()
)
_PASSING_STATUS = frozenset({408, 425, 429})
_HOPELESS = (errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG, errno.EILSEQ)


def final_error(error: Exception, uri: str, *, is_first: bool = False) -> ValueError | NoSpaceError | None:
    """The error to show a user for one that trying again now would not mend; None if it might.

    Args:
        error: What was raised.
        uri: What was asked for.
        is_first: Whether nothing has worked yet: then a name that nobody knows is a mistake, and no passing failure.
    """
    where, text = shown(uri), text_of(error)
    if isinstance(error, TypeError):  # mostly an option that the file system does not know
        return ValueError(f"{where}: {text}; check the storage options")
    if type(error).__name__ == "ParamValidationError":  # botocore's, before anything is sent
        return ValueError(f"{where}: {text}; check the name")
    if isinstance(error, ValueError | NotImplementedError) and not isinstance(error, OSError):
        return ValueError(f"{where}: {text}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"no space left for {where}: free some, older checkpoints for example")
    code, status = error_code(error), _status(error)
    if (refusal := _refusal(error, code, status, where, text)) is not None:
        return refusal
    if code == "NoSuchBucket" or "bucket does not exist" in text:
        return Missing(f"{where}: there is no such bucket; check its name and the endpoint")
    if any(type(cause).__name__ == "TooManyRedirects" for cause in _causes(error)):  # aiohttp's
        return ValueError(f"{where}: the server redirects again and again; check the address")
    if isinstance(error, FileNotFoundError) and code not in _PASSING and status in (None, 404, 410):
        # An HTTP file system says "not found" for whatever goes wrong; what went wrong is behind it.
        if status is None and any(_is_connection(cause) for cause in _causes(error)):
            return _unreachable(error, where, is_first)
        return Missing(f"{where}: there is no such file or folder")
    if isinstance(error, OSError) and error.errno in _HOPELESS and status is None:
        return ValueError(f"{where}: {error.strerror}; use another path")
    if status is not None and 400 <= status < 500 and status not in _PASSING_STATUS and code not in _PASSING:
        return ValueError(f"{where}: the server refuses the request ({_with_code(code, text)}){_hint(text)}")
    return _unreachable(error, where, is_first)


def _refusal(error: Exception, code: str, status: int | None, where: str, text: str) -> Refused | None:
    names = {type(cause).__name__ for cause in _causes(error)}
    if names & {"NoCredentialsError", "PartialCredentialsError"}:
        return KeysRefused(
            f"{where}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "pass storage-options"
        )
    if code in EXPIRED:
        return KeysRefused(
            f"{where}: access is refused, the keys have expired ({_with_code(code, text)}); get new ones (such as aws sso "
            "login, or set AWS_SESSION_TOKEN anew), check credentials, and give the same command again"
        )
    if code in _KEYS_ADVICE:
        return KeysRefused(
            f"{where}: access is refused ({_with_code(code, text)}); check credentials: {_KEYS_ADVICE[code]}"
        )
    if code in _REGION:
        return KeysRefused(
            f"{where}: access is refused ({_with_code(code, text)}); the bucket is in another region: check AWS_REGION and "
            "the endpoint"
        )
    if isinstance(error, PermissionError) or code == "AccessDenied" or status in (401, 403, 407):
        return Refused(f"{where}: access is refused ({_with_code(code, text)}); check credentials and permissions")
    return None


def _unreachable(error: Exception, where: str, is_first: bool) -> ValueError | None:
    """What is wrong with an address, if that is certain."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ValueError(
                f"{where}: the server's certificate is not trusted ({cause.verify_message}); name its authority's file in "
                "AWS_CA_BUNDLE (SSL_CERT_FILE for http), or check the address"
            )
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", None) in (
            "WRONG_VERSION_NUMBER",
            "RECORD_LAYER_FAILURE",
        ):
            return ValueError(
                f"{where}: the server does not speak TLS at this address; use http:// or the port for https://"
            )
        if is_first and isinstance(cause, socket.gaierror) and cause.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return ValueError(f"{where}: nobody knows this host ({text_of(cause)}); check the address or the endpoint")
    return None


def _hint(text: str) -> str:
    return "; the server wants https:// at this address" if "HTTPS" in text else "; check the address and the options"


def error_code(error: BaseException | None) -> str:
    """S3's code of an error, or of the one behind it; empty if it has none."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _status(error: BaseException | None) -> int | None:
    """HTTP's status of an error, or of the one behind it."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        status = getattr(response, "status_code", None) or getattr(cause, "status", None)
        if isinstance(status, int) and status >= 100:
            return status
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        kwargs = getattr(cause, "kwargs", None)  # botocore keeps the cause among them
        inner = kwargs.get("error") if isinstance(kwargs, dict) else None
        own = [getattr(cause, "os_error", None), getattr(cause, "certificate_error", None), inner]
        waiting += [one for one in own if isinstance(one, BaseException)] + [cause.__cause__, cause.__context__]


def _is_connection(error: BaseException) -> bool:
    """Whether an error is one of reaching a server, and no answer of it."""
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError) or (
        "aiohttp" in type(error).__module__ and not hasattr(error, "status")
    )


def _with_code(code: str, text: str) -> str:
    return text if not code or code in text or code.isdecimal() else f"{code}: {text}"


def text_of(error: BaseException) -> str:
    """What went wrong, in the error's words; FileNotFoundError of an HTTP file system only repeats the address."""
    if (
        isinstance(error, FileNotFoundError)
        and error.__cause__ is not None
        and "aiohttp" in type(error.__cause__).__module__
    ):
        error = error.__cause__
    return shown(str(error)) or type(error).__name__
