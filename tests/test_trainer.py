"A trainer without the command: first weights, a loss that is no number, a state at any step."
import pytest, torch
from detbook.reading import read_checkpoint
from detbook.checkpoint import save_checkpoint
from detbook.describe import read_detector
from detbook.runs import Run, check_notes, read_state
from detbook.trainer import Trainer, build_model
from detbook.training import read_training_config, train
from test_training import config, straight, toy

pytestmark = pytest.mark.usefixtures('one_thread')

EMA = "custom_hooks=[{'type': 'EMAHook', 'ema_type': 'ExpMomentumEMA', 'momentum': 0.3, 'update_buffers': True}]"
ADAM = "optim_wrapper.optimizer={'_delete_': True, 'type': 'AdamW', 'lr': 0.001}"

def steps(trainer, n):
    "Make `n` steps as the loop does."
    trainer.net.train()
    for _ in range(n):
        trainer.loader.batch_sampler.go_to(*divmod(trainer.step, trainer.times.per_epoch))
        trainer.train_step(*next(iter(trainer.loader)))
    return trainer

@pytest.mark.parametrize('settings', [[], [EMA], ['optim_wrapper.accumulative_counts=2'], [ADAM]])
def test_a_state_at_any_step_holds_everything(config, tmp_path, settings):
    "Six steps, and six that were interrupted after the third and in another object: weights, optimizer, average."
    cfg = read_training_config(config, settings)
    whole, cut = (steps(Trainer(cfg, tmp_path/name, validate=False), n) for name, n in (('whole', 6), ('cut', 3)))
    cut.save_state()
    again = steps(Trainer(cfg, tmp_path/'cut', validate=False, state=read_state(tmp_path/'cut', check_notes)), 3)
    assert again.step == whole.step == 6
    whole.save_state(); again.save_state()
    a, b = (read_state(tmp_path/name) for name in ('whole', 'cut'))
    assert a.tensors.keys() == b.tensors.keys() and all(torch.equal(v, b.tensors[k]) for k,v in a.tensors.items())
    assert a.notes['optim'] == b.notes['optim'] and a.notes.get('average') == b.notes.get('average')
    assert any(k.startswith('average.') for k in a.tensors) == (settings == [EMA])

def test_what_fails_in_a_step_is_not_saved_as_a_half(config, tmp_path, monkeypatch):
    trainer = steps(Trainer(read_training_config(config), tmp_path, validate=False), 2)
    trainer.save_state()
    monkeypatch.setattr(trainer.hooks, 'called', trainer.hooks.called | dict(after_step=[lambda run: 1/0]))
    with pytest.raises(ZeroDivisionError) as e: steps(trainer, 1)
    assert trainer.rescue(e.value) == f'the state after step 2 is in {tmp_path}/resume.safetensors: --resume goes on from there'
    assert read_state(tmp_path).notes['step'] == 2

def test_a_loss_that_is_no_number(config, tmp_path):
    with pytest.raises(FloatingPointError, match=r'image \d'): train(config, work_dir=tmp_path, set=['optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None', 'param_scheduler=[]'])
    card = Run(tmp_path).card
    assert card['status'] == 'failed' and 'loss' in card['error']

def test_weights_of_a_backbone_and_of_a_detector(straight, config, tmp_path, capsys):
    weights = read_checkpoint(straight.detector)
    save_checkpoint(tmp_path/'trunk.safetensors', {k.removeprefix('backbone.'): v for k,v in weights.items() if k.startswith('backbone.')})
    cfg = read_training_config(config, [f"model.backbone.init_cfg={{'_delete_': True, 'type': 'Pretrained', 'checkpoint': '{tmp_path}/trunk.safetensors'}}"])
    model = build_model(cfg)
    assert torch.equal(model.backbone.conv1.weight, weights['backbone.conv1.weight']) and not torch.equal(model.neck.lateral_convs[0].conv.weight, weights['neck.lateral_convs.0.conv.weight'])
    capsys.readouterr()
    run = train(config, work_dir=tmp_path/'run', validate=False, set=[f'load_from={straight.detector}', 'model.roi_head.bbox_head.num_classes=2', "train_dataloader.dataset.metainfo.classes=('circle', 'square')",
                'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=1e-12'])
    said, after = capsys.readouterr().out, read_checkpoint(run.detector)
    assert '4 reinitialised' in said and 'roi_head.bbox_head.fc_cls.weight' in said and '(5, 16) in the file, (3, 16) here' in said
    assert torch.allclose(after['rpn_head.rpn_conv.weight'], weights['rpn_head.rpn_conv.weight']) and after['roi_head.bbox_head.fc_cls.weight'].shape == (3, 16)
    assert read_detector(run.detector)[1] == ('circle', 'square')
