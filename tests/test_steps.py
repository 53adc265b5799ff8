"Steps of a config that cannot be built: each is named, with its place."
import pytest
from detbook.nodes import ConfigError
from detbook.config import Config
from detbook.steps import add_steps, build_transforms

@pytest.mark.parametrize('step, text', [
    (dict(type='RandomChoiceResize', scales=[(100, 50), 'x']), 'expected a pair'), (dict(type='RandomResize', scale=(100, 50)), 'ratio_range'),
    (dict(type='RandomResize', scale=[(1, 2), (3, 4), (5, 6)]), 'two pairs'), (dict(type='RandomResize', scale=[(1, 2), (3, 4)], ratio_range=(1, 2)), 'no effect'),
    (dict(type='RandomCrop', crop_size=(9, 3), crop_type='absolute_range'), 'least, most'), (dict(type='RandomCrop', crop_size=(.5, .5), crop_type='relativ'), 'relative'),
    (dict(type='RandomFlip'), 'prob is missing'), (dict(type='RandomFlip', prob=[.5, .7], direction=['horizontal', 'vertical']), 'probabilities'),
    (dict(type='FilterAnnotations', by_mask=True), 'no masks'), (dict(type='Resize', scale_factor=2.), 'scale_factor'),
    (dict(type='Resize', scale=(10, 10), interpolation='bicubic'), 'bilinear'), (dict(type='RandomCenterCropPad'), 'does not have'), (dict(type='Collect', keys=[]), '2.x'),
    (dict(type='ProposalBroadcaster', transforms=[]), 'no LoadProposals'), (dict(type='TestTimeAug', transforms=[]), 'tta'), (7, 'expected a dict'), (dict(prob=.5), 'no type')])
def test_a_step_that_cannot_be_built_is_named(step, text):
    with pytest.raises(ConfigError, match=text) as e: build_transforms([dict(type='PackDetInputs'), step], 'the.pipeline')
    assert str(e.value).startswith('the.pipeline.1') and '\n' not in str(e.value)


def test_the_file_and_line_of_a_wrong_step_are_told(tmp_path):
    (tmp_path/'c.py').write_text("pipeline = [\n    dict(type='LoadImageFromFile'),\n    dict(type='RandomFlip', probability=.5, prob=.5),\n]\n")
    with pytest.raises(ConfigError, match=r'c\.py:3.*did you mean'): build_transforms(Config.fromfile(tmp_path/'c.py').pipeline)


def test_what_one_adds_stands_behind_what_is_there():
    made = build_transforms([dict(type='LoadAnnotations', with_mask=True), dict(type='RandomFlip', prob=1.)])
    add_steps(made, [dict(type='FilterAnnotations', by_mask=True), dict(type='RandomFlip', prob=0.)], 'the.pipeline', skipped=('RandomFlip',))
    assert made.names == ['RandomFlip', 'FilterAnnotations'] and made.masks
    with pytest.raises(ConfigError, match=r"the\.pipeline is 7; expected a list of steps"): add_steps(made, 7, 'the.pipeline')
