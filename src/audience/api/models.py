"""`/v1/models`: rule sets, saved as immutable versions."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from audience.api.bodies.models import ModelCreated, ModelList, ModelView, NewModel, Texts, Tried
from audience.api.context import Actor, Audience, Key, created, key_of
from audience.api.errors import answers
from audience.app.types import RuleSet, check_rules, parse_rules
from audience.errors import BadInput

router = APIRouter(prefix="/v1/models", tags=["models"])

Reference = Annotated[
    str, Path(pattern=r"^\w[\w.\-]{0,99}(@[1-9]\d{0,8})?$", description="name: the newest version; or name@version")
]


@router.post("", status_code=201, response_model=ModelCreated, responses=answers(409))
def create(app: Audience, actor: Actor, body: NewModel, key: Key = None) -> JSONResponse:
    """Check a rule set and save it as a new version; the same rules again are the same version."""
    rules, warnings = _rules(body)

    reference = app.models.save(body.name, rules, actor, warnings, key_of(key, "/v1/models", body))
    made = {"model": reference, "warnings": list(warnings)}
    return created(made, f"/v1/models/{quote(reference, safe='@')}", 201)


def _rules(body: NewModel) -> tuple[RuleSet, tuple[str, ...]]:
    options = {name: getattr(body, name) for name in ("fields", "case", "width", "labels")}
    given = {name: value for name, value in options.items() if value is not None}
    if (body.rules is None) == (body.csv is None):
        raise BadInput("a model is made of `rules`, or of `csv`: give one of them")
    if body.csv is not None:
        return parse_rules(body.csv.encode(), "rules.csv", **given)
    assert body.rules is not None
    if given:
        raise BadInput(f"{', '.join(given)}: beside `csv` only; write it into `rules`")
    places = [f"rules.{n}" for n in range(len(body.rules.rules))]
    return body.rules, check_rules(body.rules, places, "the rule set")


@router.get("")
def list_(app: Audience) -> ModelList:
    """List the saved models, every version."""
    return ModelList(items=[ModelView.of(record) for record in app.models.all()])


@router.get("/{model}", responses=answers(404))
def show(app: Audience, model: Reference) -> ModelView:
    """Show a model with its rules."""
    return ModelView.of(app.models.get(model), whole=True)


@router.post("/{model}/try", responses=answers(404))
def try_(app: Audience, model: Reference, body: Texts) -> Tried:
    """Show which rules of a model hit a row, and where."""
    fields = app.models.fields(model)
    unknown = [name for name in body.fields if name not in fields]
    if unknown:
        raise BadInput(f"the model does not look at {', '.join(unknown)}; it looks at: {', '.join(fields)}")
    labels, hits = app.models.try_out(model, {"": body.text, **body.fields})
    return Tried.model_validate({"labels": labels, "hits": hits})
