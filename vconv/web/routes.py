"""The HTTP interface of the page. Everything is JSON but for uploads, audio and archives."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio.to_thread
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import vconv
from vconv.errors import InputError, VconvError
from vconv.files import readable
from vconv.untrusted import MAX_ARCHIVE_BYTES
from vconv.voice import Voice
from vconv.voices import sampling as speakers
from vconv.web.converting import FORMATS, PICTURES, RESULT, encode, listening_copy
from vconv.web.inputs import Refusal, file_name, items, json_object, text
from vconv.web.jobs import Jobs, one_line, system_failure
from vconv.web.library import Library
from vconv.web.models import Models
from vconv.web.uploads import Limits, Uploads, listening_path
from vconv.web.voice_jobs import Workshop, can_tune

_MEDIA = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}
_MAX_ZIP = 50_000  # results in an archive
_MAX_ZIP_REQUEST = 1 << 20  # bytes: so many ids
_MISSING = "missing.txt"  # in an archive

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Services:
    """What the routes work with. ``folder`` is for temporary files and is deleted at the end."""

    folder: Path
    limits: Limits
    uploads: Uploads
    jobs: Jobs
    library: Library
    models: Models

    @property
    def workshop(self) -> Workshop:
        return Workshop(self.uploads, self.library, self.models)


def routes(services: Services) -> list[Route]:
    """All of them."""
    table: list[tuple[str, str, Callable[[Services, Request], Awaitable[Response]]]] = [
        ("GET", "/api/state", state),
        ("POST", "/api/uploads", upload),
        ("GET", "/api/uploads/{id}/audio", upload_audio),
        ("DELETE", "/api/uploads/{id}", remove_upload),
        ("POST", "/api/jobs", submit),
        ("GET", "/api/jobs/{id}", job_state),
        ("DELETE", "/api/jobs/{id}", remove_job),
        ("GET", "/api/jobs/{id}/audio", job_audio),
        ("GET", "/api/jobs/{id}/pictures", job_pictures),
        ("POST", "/api/zip", archive),
        ("GET", "/api/directions", directions),
        ("GET", "/api/voices", voices),
        ("POST", "/api/voices/import", import_voice),
        ("POST", "/api/voices/rename", rename_voice),
        ("GET", "/api/voices/file", voice_file),
        ("DELETE", "/api/voices", delete_voice),
    ]
    return [Route(path, _told(partial(endpoint, services)), methods=[method]) for method, path, endpoint in table]


def _told(endpoint: Endpoint) -> Endpoint:
    """Errors as the one-line messages of the command line."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status)
        except InputError as error:
            return JSONResponse({"error": one_line(error)}, 422)
        except VconvError as error:
            return JSONResponse({"error": one_line(error)}, 500)
        except OSError as error:
            return JSONResponse({"error": system_failure(error)}, 500)

    return told


async def state(services: Services, request: Request) -> Response:
    """What this server can do."""
    return JSONResponse(
        {
            "version": vconv.__version__,
            "models": services.models.names,
            "formats": FORMATS,
            "can_tune": can_tune(),
            "live": find_spec("websockets") is not None,
            "upload_bytes": services.limits.upload_bytes,
            "upload_seconds": services.limits.seconds,
        }
    )


# ---------------------------------------------------------------- uploads


async def upload(services: Services, request: Request) -> Response:
    """A recording; its name is a parameter, its bytes are the body."""
    recording = await services.uploads.receive(request, file_name(request.query_params.get("name", "")))
    return JSONResponse(recording.describe(), 201)


async def upload_audio(services: Services, request: Request) -> Response:
    """A copy for the player."""
    recording = services.uploads.get(request.path_params["id"])
    copy = await anyio.to_thread.run_sync(listening_copy, recording.path, listening_path(recording))
    return FileResponse(copy, media_type=_MEDIA["wav"])


async def remove_upload(services: Services, request: Request) -> Response:
    services.uploads.remove(request.path_params["id"])
    return Response(status_code=204)


# ---------------------------------------------------------------- jobs


async def submit(services: Services, request: Request) -> Response:
    """A job of a kind: see ``Workshop.read``."""
    body = await json_object(request)
    task = services.workshop.read(text(body, "kind"), body)
    job = services.jobs.submit(task.title, task.work, task.total, task.names)
    return JSONResponse(services.jobs.describe(job), 202)


async def job_state(services: Services, request: Request) -> Response:
    return JSONResponse(services.jobs.describe(services.jobs.get(request.path_params["id"])))


async def remove_job(services: Services, request: Request) -> Response:
    services.jobs.remove(request.path_params["id"])
    return Response(status_code=204)


async def job_audio(services: Services, request: Request) -> Response:
    """The result of a job as a file; with ``listen``, a copy for the player."""
    job = services.jobs.result(request.path_params["id"])
    source = job.folder / RESULT
    if "listen" in request.query_params:
        copy = await anyio.to_thread.run_sync(listening_copy, source, job.folder / "listen.wav")
        return FileResponse(copy, media_type=_MEDIA["wav"])
    suffix = _format(request.query_params.get("format", "wav"))
    output = job.folder / f"download-{secrets.token_hex(4)}.{suffix}"
    await anyio.to_thread.run_sync(encode, source, output)
    name = f"{job.result.get('name', 'result')}.{suffix}"
    return FileResponse(output, media_type=_MEDIA[suffix], filename=name, background=_deletion(output))


async def job_pictures(services: Services, request: Request) -> Response:
    path = services.jobs.result(request.path_params["id"]).folder / PICTURES
    if not path.is_file():
        raise Refusal(404, "this job has no pictures")
    return FileResponse(path, media_type="application/json")


async def archive(services: Services, request: Request) -> Response:
    """Results of several jobs in a zip file. Those that are not there any more are named in it, and counted."""
    body = await json_object(request, _MAX_ZIP_REQUEST)
    suffix = _format(text(body, "format", "wav"))
    keys = items(body, "jobs", _MAX_ZIP)
    output = services.folder / f"{secrets.token_hex(8)}.zip"
    try:
        missing = await anyio.to_thread.run_sync(_write_zip, output, keys, suffix, services.jobs)
    except BaseException:
        output.unlink(missing_ok=True)
        raise
    return FileResponse(
        output,
        media_type="application/zip",
        filename="vconv.zip",
        headers={"X-Missing": str(missing)},
        background=_deletion(output),
    )


def _write_zip(output: Path, keys: list[object], suffix: str, jobs: Jobs) -> int:
    """Returns how many results were not there.

    Raises:
        Refusal: none was.
    """
    distinct, missing = _Distinct(), []
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as file:
        for key in keys:
            try:
                job = jobs.result(key)
                encoded = encode(job.folder / RESULT, job.folder / f"zip-{secrets.token_hex(4)}.{suffix}")
            except (Refusal, InputError):  # dropped before, or just now
                missing.append(jobs.title(key))
                continue
            file.write(encoded, f"{distinct(job.result.get('name', 'result'))}.{suffix}")
            encoded.unlink(missing_ok=True)
        if len(missing) == len(keys):
            raise Refusal(404, "none of these results is there any more; convert the files again")
        if missing:
            told = "These results made room for newer ones; convert the files again:"
            file.writestr(_MISSING, "\n".join([told, *missing, ""]))
    return len(missing)


class _Distinct:
    """Makes names of files that differ, on file systems that ignore case, too."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, name: str) -> str:
        name = name.replace("/", "_").replace("\\", "_").lstrip(".") or "result"
        candidate, number = name, 2
        while candidate.lower() in self._seen:
            candidate, number = f"{name} ({number})", number + 1
        self._seen.add(candidate.lower())
        return candidate


def _format(suffix: str) -> str:
    if suffix not in FORMATS:
        raise Refusal(400, f"cannot write this format; use {', '.join(FORMATS)}")
    return suffix


def _deletion(path: Path) -> BackgroundTask:
    return BackgroundTask(partial(path.unlink, missing_ok=True))


# ---------------------------------------------------------------- voices


async def voices(services: Services, request: Request) -> Response:
    found = await anyio.to_thread.run_sync(services.library.describe)
    return JSONResponse({"voices": found, "folder": readable(str(services.library.folder))})


async def rename_voice(services: Services, request: Request) -> Response:
    body = await json_object(request)
    services.library.rename(text(body, "name"), text(body, "new"))
    return Response(status_code=204)


async def delete_voice(services: Services, request: Request) -> Response:
    services.library.delete(request.query_params.get("name", ""))
    return Response(status_code=204)


async def voice_file(services: Services, request: Request) -> Response:
    path = services.library.path(request.query_params.get("name", ""))
    return FileResponse(path, media_type="application/octet-stream", filename=readable(path.name))


async def import_voice(services: Services, request: Request) -> Response:
    """A .npz file of a voice; nothing but the voice's own arrays is kept of it."""
    name = Path(file_name(request.query_params.get("name", ""))).stem
    services.library.check_free(name)  # refused before the upload
    temporary, size = services.folder / f"{secrets.token_hex(8)}.npz", 0
    try:
        size = await services.uploads.save(request, temporary, MAX_ARCHIVE_BYTES)
        voice = await anyio.to_thread.run_sync(Voice.load, temporary)
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), f"{name}.npz")) from error
    finally:
        services.uploads.discard(temporary, size)
    return JSONResponse({"voice": services.library.save(voice, name)}, 201)


async def directions(services: Services, request: Request) -> Response:
    """The directions along which voices can be moved; none where the model has no population."""
    model = services.models.check(request.query_params.get("model", ""))
    population = await anyio.to_thread.run_sync(services.models.population, model)
    found = speakers.directions(population) if population else []
    shown = [{"number": one.number, "share": one.share, "name": one.name} for one in found]
    return JSONResponse({"known": population is not None, "directions": shown})
