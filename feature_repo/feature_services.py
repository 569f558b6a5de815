"""What is read together. A breaking change is a new service `_v2` beside the old one."""

from entities import OWNER
from feast import FeatureService
from feature_views import recommendations, user_history

training_v1 = FeatureService(
    name="training_v1",
    features=[user_history],
    description="A user's history at a point in time: what training sequences begin with.",
    owner=OWNER,
    tags={"read": "offline"},
)
recommendations_v1 = FeatureService(
    name="recommendations_v1",
    # Only the on-demand view: stored fields beside it would come back under their own names as well.
    features=[recommendations],
    description="An app's final list for a user: one read, nothing left to filter.",
    owner=OWNER,
    tags={"read": "online"},
)
