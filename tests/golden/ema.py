"Averages of four weights by mmengine 0.10.7 and mmdetection 3.3 (`mmdet/models/layers/ema.py`, loaded by itself): `python tests/golden/ema.py` writes ema.json."
import json, sys
from pathlib import Path
import torch
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage
from mmengine.model.averaged_model import MomentumAnnealingEMA

def load_exp(site):
    "mmdetection's rule, without the rest of mmdetection: the file needs its registry alone."
    text = (Path(site)/'mmdet/models/layers/ema.py').read_text().replace('from mmdet.registry import MODELS', 'from mmengine.registry import MODELS')
    space = {}
    exec(compile(text, 'ema.py', 'exec'), space)
    return space['ExpMomentumEMA']

def main(site):
    rules = dict(ExponentialMovingAverage=ExponentialMovingAverage, ExpMomentumEMA=load_exp(site), MomentumAnnealingEMA=MomentumAnnealingEMA, StochasticWeightAverage=StochasticWeightAverage)
    values, cases = [[float((3*i*i + 7*k) % 11 - 5) for k in range(4)] for i in range(9)], []
    for rule,cls in rules.items():
        for more in ({}, dict(interval=3), dict(momentum=.3, gamma=4), dict(update_buffers=True, momentum=.1)):
            given = {k:v for k,v in more.items() if not (k == 'gamma' and rule in ('ExponentialMovingAverage', 'StochasticWeightAverage')) and not (k == 'momentum' and rule == 'StochasticWeightAverage')}
            net = torch.nn.BatchNorm1d(4).double()
            average, seen = cls(net, **given), []
            for v in values:
                with torch.no_grad():
                    net.weight.copy_(torch.tensor(v)); net.running_mean.copy_(-torch.tensor(v))
                average.update_parameters(net)
                seen.append([average.module.weight.tolist(), average.module.running_mean.tolist()])
            cases.append(dict(rule=rule, given=given, seen=seen))
    Path(__file__).with_suffix('.json').write_text(json.dumps(dict(values=values, cases=cases)))

if __name__ == '__main__': main(sys.argv[1])
