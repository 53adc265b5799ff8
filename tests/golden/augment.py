"""What mmdetection 3.3's formulas give with OpenCV for fixed draws: writes augment.npz beside this file. Needs numpy and opencv-python-headless; nothing of mmdetection or detbook is imported.

Pictures are blue first, (H, W, 3), as there. Each entry is the picture or the boxes that a step of the named class leaves; the draws stand in the calls below and in tests/test_augment.py."""
from pathlib import Path
import cv2, numpy as np

rng = np.random.RandomState(0)
img = rng.randint(0, 256, (17, 23, 3)).astype(np.uint8)
img[:6, :9], img[10:, 15:] = rng.randint(0, 40, (6, 9, 3)), 200
big = rng.randint(0, 256, (60, 80, 3)).astype(np.uint8)//2 + 40
soft = [cv2.resize(rng.randint(0, 256, (6, 7, 3)).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR) for w, h in ((50, 35), (60, 20), (31, 40), (64, 64))]
out = dict(img=img, big=big, **{f'soft{i}': s for i, s in enumerate(soft)})

def grey(x): return cv2.cvtColor(x, cv2.COLOR_BGR2GRAY)
def mixed(a, share, b): return np.clip(cv2.addWeighted(a.astype(np.float32), share, b.astype(np.float32), 1 - share, 0), 0, 255).astype(np.uint8)

for m in (.1, .7, 1.3, 1.9):
    out[f'Color {m}'] = cv2.addWeighted(img, m, np.tile(grey(img)[..., None], [1, 1, 3]), 1 - m, 0)
    out[f'Brightness {m}'] = mixed(img, m, np.zeros_like(img))
    out[f'Contrast {m}'] = mixed(img, m, np.full_like(img, round(grey(img).sum()/grey(img).size)))
    out[f'Sharpness {m}'] = mixed(img, m, cv2.filter2D(img, -1, np.array([[1., 1, 1], [1, 5, 1], [1, 1, 1]])/13))
for m in (0., 100., 256.): out[f'Solarize {m}'] = np.where(img < m, img, 255 - img).astype(np.uint8)
for m in (0., 33.3, 110.): out[f'SolarizeAdd {m}'] = np.where(img < 128, np.minimum(img + m, 255), img).astype(np.uint8)
for m in (0., 1.3, 4.): out[f'Posterize {m}'] = ((img.astype(int) >> (8 - int(np.ceil(m)))) << (8 - int(np.ceil(m)))).astype(np.uint8)

def equalized(x):
    count = np.histogram(x, 256, (0, 255))[0]
    step = (count.sum() - count[count > 0][-1])//255
    if not step: return x
    return np.minimum(np.concatenate([[0], ((np.cumsum(count) + step//2)//step)[:-1]]), 255)[x]
def stretched(x):
    low, high = int(x.min()), int(x.max())
    scale = 255./(high - low)
    return np.clip(np.arange(256)*scale - low*scale, 0, 255)[x]
for name, f in (('Equalize', equalized), ('AutoContrast', stretched)): out[name] = np.stack([f(big[..., c]) for c in range(3)], -1).astype(np.uint8)

# early, light, contrast, saturation, hue, order (blue first)
PHOTO = [(0, None, None, None, None, None), (1, -30., 1.4, 1.45, None, None), (0, 25., .6, .55, 11., [2, 0, 1]), (1, -32., None, 1.3, -17., [1, 2, 0]), (0, None, 1.2, None, 18., None)]
for n, (early, light, contrast, saturation, hue, order) in enumerate(PHOTO):
    x = img.astype(np.float32)
    if light is not None: x += light
    if contrast is not None and early: x *= contrast
    x = cv2.cvtColor(x, cv2.COLOR_BGR2HSV)
    if saturation is not None: x[..., 1] *= saturation
    if saturation is not None and saturation > 1: x[..., 1] = x[..., 1].clip(0, 1)
    if hue is not None: x[..., 0] = np.where(x[..., 0] + hue > 360, x[..., 0] + hue - 360, np.where(x[..., 0] + hue < 0, x[..., 0] + hue + 360, x[..., 0] + hue))
    x = cv2.cvtColor(x, cv2.COLOR_HSV2BGR)
    if contrast is not None and not early: x *= contrast
    out[f'PhotoMetricDistortion {n}'] = x if order is None else x[..., order]

H, W = img.shape[:2]
BOXES = np.float32([[2, 3, 12, 9], [10, 8, 23, 17]])
def project(matrix, h, w):
    corners = BOXES[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ np.float32(matrix)[:2, :2].T + np.float32(matrix)[:2, 2]
    return np.clip(np.concatenate([corners.min(1), corners.max(1)], 1), 0, [w, h, w, h]).astype(np.float32)
MOVES = {'Rotate 13': cv2.getRotationMatrix2D(((W-1)*.5, (H-1)*.5), -13., 1.), 'ShearX 9': np.float32([[1, np.tan(np.radians(9)), 0], [0, 1, 0]]),
         'ShearY -9': np.float32([[1, 0, 0], [-np.tan(np.radians(9)), 1, 0]]), 'TranslateX 0.1': np.float32([[1, 0, int(W*.1)], [0, 1, 0]]), 'TranslateY -0.1': np.float32([[1, 0, 0], [0, 1, int(H*-.1)]])}
for name, m in MOVES.items(): out[name], out[f'{name} boxes'] = cv2.warpAffine(img, m, (W, H), borderValue=(128,)*3), project(m, H, W)
a, s, sx, sy = np.radians(7.), 1.2, np.radians(1.5), np.radians(-1.)
turn  = np.float32([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
shear = np.float32([[1, np.tan(sx), 0], [np.tan(sy), 1, 0], [0, 0, 1]])
shift = np.float32([[1, 0, .05*W], [0, 1, -.04*H], [0, 0, 1]])
m = shift @ shear @ turn @ np.diag([s, s, 1]).astype(np.float32)
out['RandomAffine'], out['RandomAffine boxes'] = cv2.warpPerspective(img, m, dsize=(W - 4, H + 6), borderValue=(114,)*3), project(m, H + 6, W - 4)

# Mosaic: frames of 60 x 40, the point at column 50, row 30
canvas = np.full((80, 120, 3), 114., np.uint8)
for i, x in enumerate(soft):
    scale = min(40/x.shape[0], 60/x.shape[1])
    x = cv2.resize(x, (int(x.shape[1]*scale), int(x.shape[0]*scale)))
    h, w = x.shape[:2]
    left, top = 50 - (0 if i % 2 else w), 30 - (0 if i > 1 else h)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 120), min(top + h, 80)
    canvas[y1:y2, x1:x2] = x[y1-top:y2-top, x1-left:x2-left]
out['Mosaic'] = canvas

# MixUp: a frame of 60 x 40, factor, mirrored, (row, column) of the window
for n, (factor, mirror, y, x) in enumerate([(1.3, True, 4, 7), (.6, False, 0, 0)]):
    other = soft[3]
    scale = min(40/other.shape[0], 60/other.shape[1])
    other = cv2.resize(other, (int(other.shape[1]*scale), int(other.shape[0]*scale)))
    frame = np.ones((40, 60, 3))*114.
    frame[:other.shape[0], :other.shape[1]] = other
    frame = cv2.resize(frame, (int(60*factor), int(40*factor)))
    if mirror: frame = frame[:, ::-1]
    own = soft[0]
    filled = (np.ones((max(frame.shape[0], own.shape[0]), max(frame.shape[1], own.shape[1]), 3))*114.).astype(np.uint8)
    filled[:frame.shape[0], :frame.shape[1]] = frame
    out[f'MixUp {n}'] = (.5*own.astype(np.float32) + .5*filled[y:y+own.shape[0], x:x+own.shape[1]].astype(np.float32)).astype(np.uint8)

np.savez_compressed(Path(__file__).with_name('augment.npz'), **out)
