"""Public encoders of pictures and sound as a model's towers. `transformers` is loaded when it is used.

pictures = load_picture_encoder("siglip2-base-patch16-224", width=512, layer=-2)
features_SND, mask_SN = pictures(frames_SFHWC, frame_mask_SF)
"""

from longtake.operators.model.encoders.public_audio import SoundEncoder, load_sound_encoder
from longtake.operators.model.encoders.public_vision import PictureEncoder, load_picture_encoder
from longtake.operators.model.encoders.towers import Towers, load_towers

__all__ = ["PictureEncoder", "SoundEncoder", "Towers", "load_picture_encoder", "load_sound_encoder", "load_towers"]
