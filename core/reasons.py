"""Why something was refused or failed, as a value for programs. docs/reasons.md lists every member with its meaning and the next step.

The values are stored in rows and sent over HTTP: a member's value never changes once a release has it. The sentences beside a reason are
for people and may change at any time; no decision reads them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias


class Reason(StrEnum):
    """Every reason of an error, of a submission that does not serve, and of a failed check or trial."""

    # Kinds of errors: the `code` of an error class, and the reason of an error that needs no closer one.
    ERROR = "error"
    REFUSED = "refused"
    REJECTED = "rejected"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TRANSIENT = "transient"
    RETRIES_EXHAUSTED = "retries_exhausted"
    FAULT = "fault"
    DISK_FULL = "disk_full"

    # Ends of a submission that the model's checks and trials did not cause.
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    ROLLED_BACK = "rolled_back"

    # The model's source, before and during the download.
    BAD_MODEL_ID = "bad_model_id"
    BAD_ENDPOINT_NAME = "bad_endpoint_name"
    FOLDER_NOT_FOUND = "folder_not_found"
    GATED = "gated"
    DISABLED = "disabled"
    EMPTY_REPOSITORY = "empty_repository"
    ADAPTER_ONLY = "adapter_only"
    GGUF_ONLY = "gguf_only"
    PICKLE_ONLY = "pickle_only"
    TOO_LARGE = "too_large"
    SOURCE_CHANGED = "source_changed"
    SYMLINK_BROKEN = "symlink_broken"
    SYMLINK_OUTSIDE = "symlink_outside"
    UNSAFE_FILE = "unsafe_file"
    UNSAFE_PATH = "unsafe_path"
    RESERVED_NAME = "reserved_name"
    WRONG_BYTES = "wrong_bytes"

    # Checks of the model's files: the name of a failed finding is the reason of the submission that it refuses.
    NO_CONFIG = "no_config"
    NO_TOKENIZER = "no_tokenizer"
    NO_SAFETENSORS = "no_safetensors"
    INDEX_MISMATCH = "index_mismatch"
    UNEXPECTED_FILE = "unexpected_file"
    LINK_IN_MODEL = "link_in_model"
    POINTER_FILE = "pointer_file"
    WEB_PAGE = "web_page"
    BAD_JSON = "bad_json"
    REMOTE_CODE = "remote_code"
    BAD_CONFIG = "bad_config"
    BAD_GENERATION_CONFIG = "bad_generation_config"
    NO_MODEL_TYPE = "no_model_type"
    MODEL_TYPE_NEEDS_CODE = "model_type_needs_code"
    UNKNOWN_ARCHITECTURE = "unknown_architecture"
    ARCHITECTURE_REMOVED = "architecture_removed"
    ARCHITECTURE_NEEDS_GPU = "architecture_needs_gpu"
    NOT_A_TEXT_MODEL = "not_a_text_model"
    HEADS_NOT_ON_CPU = "heads_not_on_cpu"
    UNSUPPORTED_QUANTIZATION = "unsupported_quantization"
    QUANTIZATION_NOT_ON_CPU = "quantization_not_on_cpu"
    BAD_HEADER = "bad_header"
    TRUNCATED_WEIGHTS = "truncated_weights"
    DUPLICATE_WEIGHTS = "duplicate_weights"
    SHAPE_MISMATCH = "shape_mismatch"
    NAN_IN_WEIGHTS = "nan_in_weights"
    TOKENIZER_BROKEN = "tokenizer_broken"
    TOKEN_ID_BEYOND_EMBEDDING = "token_id_beyond_embedding"  # noqa: S105 - the name of a check
    NO_CHAT_TEMPLATE = "no_chat_template"
    BROKEN_TEMPLATE = "broken_template"
    ENDLESS_TEMPLATE = "endless_template"
    LICENCE_NOT_STATED = "licence_not_stated"
    LICENCE_NOT_ALLOWED = "licence_not_allowed"
    TOO_LARGE_FOR_ENGINE = "too_large_for_engine"
    CANNOT_TENSORIZE = "cannot_tensorize"

    # The start of an engine.
    ENGINE_FAILED = "engine_failed"
    ENGINE_START_TIMEOUT = "engine_start_timeout"
    ENGINE_OF_ANOTHER = "engine_of_another"
    MODEL_TOO_LARGE = "model_too_large"
    UNSCHEDULABLE = "unschedulable"
    NO_ROOM = "no_room"
    BAD_URI = "bad_uri"

    # Trials on the candidate's engine: the name of a failed finding, as in the checks.
    NO_CHAT = "no_chat"
    NO_COMPLETION = "no_completion"
    NO_DEFAULT_CHAT = "no_default_chat"
    DEFAULT_ANSWERS_CUT = "default_answers_cut"
    ENGINE_DIFFERS = "engine_differs"
    SLOW_FIRST_TOKEN = "slow_first_token"  # noqa: S105 - the name of a trial's finding
    BENCHMARK_BELOW_STABLE = "benchmark_below_stable"
    BENCHMARK_BELOW_MINIMUM = "benchmark_below_minimum"
    DEGENERATE_ANSWERS = "degenerate_answers"
    NONSENSE_ANSWERS = "nonsense_answers"

    # Suites, benchmarks and sampling studies.
    BAD_SUITE = "bad_suite"
    SUITE_NOT_FOUND = "suite_not_found"
    SUITE_CHANGED = "suite_changed"
    FORM_NOT_SUPPORTED = "form_not_supported"
    PROMPT_CHANGED = "prompt_changed"
    NO_DATASET = "no_dataset"
    NO_HUMANEVAL = "no_humaneval"
    ENGINE_REFUSED = "engine_refused"
    BAD_PLAN = "bad_plan"
    BAD_GRID = "bad_grid"
    BAD_SAMPLING = "bad_sampling"
    BAD_NUMBER = "bad_number"
    BAD_POLICY = "bad_policy"
    BELOW_NOISE_FLOOR = "below_noise_floor"
    TOO_FEW_SAMPLES = "too_few_samples"
    TOO_MANY_ANSWERS = "too_many_answers"
    TOO_MANY = "too_many"
    NOTHING_SERVED = "nothing_served"
    NO_WEIGHTS = "no_weights"
    NO_BENCHMARK = "no_benchmark"
    NO_PROBLEM = "no_problem"
    NO_ANSWERS = "no_answers"
    NOT_DONE = "not_done"
    IS_A_GATE = "is_a_gate"
    NOT_COMPARABLE = "not_comparable"
    NO_RANKER = "no_ranker"
    RANKER_REFUSED = "ranker_refused"
    RANKER_UNCLEAR = "ranker_unclear"
    WEBHOOK_REFUSED = "webhook_refused"

    # States in which a request is not possible, and writers that come too late.
    ALREADY_ENDED = "already_ended"
    ALREADY_PROMOTED = "already_promoted"
    NOT_PROMOTED = "not_promoted"
    ILLEGAL_TRANSITION = "illegal_transition"
    DRIVEN_BY_ANOTHER = "driven_by_another"
    ENDPOINT_BUSY = "endpoint_busy"
    ENDPOINT_MOVED_ON = "endpoint_moved_on"
    ROLLOUT_OPEN = "rollout_open"
    ROLLOUT_MOVED_ON = "rollout_moved_on"
    NOTHING_TO_ROLL_BACK = "nothing_to_roll_back"

    # Requests to the control API: keys, roles, and names of things that do not exist.
    NO_KEY = "no_key"
    UNKNOWN_KEY = "unknown_key"
    DEAD_KEY = "dead_key"
    ROLE = "role"
    NOT_YOURS = "not_yours"
    NO_NAME = "no_name"
    NO_PRINCIPAL = "no_principal"
    INVALID_REQUEST = "invalid_request"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NO_SUBMISSION = "no_submission"
    NO_ENDPOINT = "no_endpoint"
    NO_VERSION = "no_version"
    AMBIGUOUS_VERSION = "ambiguous_version"
    NO_ROLLOUT = "no_rollout"
    UNKNOWN_RUN = "unknown_run"
    BAD_RUN_ID = "bad_run_id"
    BAD_DIGEST = "bad_digest"
    BAD_VALUE = "bad_value"

    # Requests to the gateway: the `code` of OpenAI's error document.
    INVALID_API_KEY = "invalid_api_key"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_NOT_READY = "model_not_ready"
    INVALID_JSON = "invalid_json"
    INVALID_VALUE = "invalid_value"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TOO_SLOW = "body_too_slow"
    HEADERS_TOO_LARGE = "headers_too_large"
    UNKNOWN_URL = "unknown_url"
    COMPLETION_NOT_FOUND = "completion_not_found"
    ENGINE_ERROR = "engine_error"
    STARTING = "starting"
    DATABASE_AWAY = "database_away"
    LEDGER_FAULT = "ledger_fault"

    # The installation: settings, the embedded stack, backups, images, the demo's model.
    BAD_SETTING = "bad_setting"
    BAD_HOME = "bad_home"
    PORT_TAKEN = "port_taken"
    SPOOL_TAKEN = "spool_taken"
    NO_HOME = "no_home"
    NO_BACKUP = "no_backup"
    BAD_TARGET = "bad_target"
    BAD_TEMPLATE = "bad_template"
    BAD_VALUES = "bad_values"
    NO_BASE = "no_base"
    NO_SUCH_TRANSPORT = "no_such_transport"
    EXISTS = "exists"
    BAD_FOLDER = "bad_folder"
    BAD_CACHE = "bad_cache"

    def __reduce_ex__(self, _protocol: object) -> tuple[object, ...]:
        """Let a process of an earlier release unpickle an error whose reason it does not know."""
        return (read_reason, (str(self),))


class UnknownReason(str):
    """A reason that another release wrote. It stays in the row as it is, and equals no member."""

    __slots__ = ()


AnyReason: TypeAlias = Reason | UnknownReason
"""The reason of an error. Code of this release states a `Reason`; only `read_reason` makes an `UnknownReason`."""


def read_reason(text: str) -> AnyReason:
    """Return the reason that a row, a message of another process or an HTTP answer holds. The only place where text becomes a reason."""
    try:
        return Reason(text)
    except ValueError:
        return UnknownReason(text)
