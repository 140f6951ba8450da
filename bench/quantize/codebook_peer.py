"""AQLM's and VPTQ's solvers for one matrix in PyTorch, with the tensor operations of the original programs.

AQLM's quantizer is a research script and VPTQ's needs a GPU (cuML), so neither can be called here. This is written from their
description with the same arithmetic and the same amounts of it: AQLM at Vahe1994/AQLM e79a896 (aq.py, aq_engine.py, kmeans.py,
beam_search_xtx.py), VPTQ at microsoft/VPTQ, branch algorithm (vptq.py, quantizer.py), whose k-means is the plain one below.
"""
import math
import random

import torch
import torch.nn.functional as F


def nearest(points, centres, block=2**30):
    """Index of the nearest centre of every point; a block of `block` products at a time."""
    step = max(1, block // len(centres))
    norms = (centres * centres).sum(1)
    return torch.cat([torch.addmm(norms, part, centres.T, beta=-0.5).argmax(1) for part in points.split(step)])


def k_means(points, count, iterations, weights=None, check_every=10, rtol=1e-6, atol=1e-8):
    """Lloyd from random distinct points. Returns centres, and how many iterations it took."""
    centres = points[torch.randperm(len(points))[:count]]
    for i in range(iterations):
        codes = nearest(points, centres)
        if weights is None:
            moved = centres.clone().index_reduce_(0, codes, points, "mean", include_self=False)
        else:
            total = torch.zeros(count).index_add_(0, codes, weights)
            sums = torch.zeros_like(centres).index_add_(0, codes, points * weights[:, None])
            moved = torch.where(total[:, None] > 0, sums / total[:, None].clamp_min(1e-30), centres)
        if i % check_every == 0 and torch.allclose(moved, centres, rtol=rtol, atol=atol):
            break
        centres = moved
    return centres, i + 1


class Aqlm:
    def __init__(self, weight, xtx, books=2, bits=8, og=1, ig=8, init_max_iter=100, lr=1e-4, seed=0):
        torch.manual_seed(seed)
        random.seed(seed)
        self.weight, self.xtx, self.og, self.ig, self.books = weight, xtx, og, ig, books
        rows, cols = weight.shape
        self.groups, self.tiles, self.size = rows // og, cols // ig, 2**bits
        tiles = weight.view(self.groups, og, self.tiles, ig).transpose(1, 2)
        scales = tiles.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-9
        residual = (tiles / scales).reshape(-1, og * ig).clone()
        codebooks, codes = [], []
        for _ in range(books):
            centres, self.iterations = k_means(residual, self.size, init_max_iter)
            nearest(residual, centres)  # fit_kmeans assigns once more at its end, and its caller again
            code = nearest(residual, centres)
            residual -= centres[code]
            codebooks.append(centres.view(1, self.size, og, ig))
            codes.append(code.view(self.groups, self.tiles, 1))
        self.scales = torch.nn.Parameter(scales)
        self.codebooks = torch.nn.Parameter(torch.cat(codebooks))
        self.codes = torch.cat(codes, -1).int()
        self.adam = torch.optim.Adam([self.codebooks, self.scales], lr=lr, betas=(0.0, 0.95), amsgrad=True)

    def dequantize(self, codes):
        offsets = torch.arange(0, self.books * self.size, self.size)
        flat = F.embedding_bag(codes.flatten(0, -2) + offsets, self.codebooks.flatten(0, 1).flatten(-2), mode="sum")
        tiles = flat.view(self.groups, self.tiles, self.og, self.ig) * self.scales
        return tiles.transpose(1, 2).reshape(self.weight.shape)

    def loss(self):
        delta = self.dequantize(self.codes) - self.weight
        return (delta @ self.xtx).flatten() @ delta.flatten() / len(self.weight)

    def relative_error(self):
        with torch.no_grad():
            return float(self.loss() / ((self.weight @ self.xtx).flatten() @ self.weight.flatten() / len(self.weight)))

    def train(self, steps):
        for _ in range(steps):
            loss = self.loss()
            if not math.isfinite(loss.item()):
                raise ValueError(loss)
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    @torch.no_grad()
    def search(self, beam_size=1):
        og, ig, groups = self.og, self.ig, self.groups
        codes = self.codes[None]
        matrices = self.dequantize(self.codes)[None]
        delta = matrices[0] - self.weight
        losses = ((delta @ self.xtx) * delta).view(groups, -1).sum(1)[None]
        scales = self.scales.view(groups, 1, 1)
        for tile in random.sample(range(self.tiles), self.tiles):
            span = slice(tile * ig, (tile + 1) * ig)
            inner = self.xtx[span, span]
            for book in random.sample(range(self.books), self.books):
                codes, matrices, losses = self._replace(codes, matrices, losses, tile, book, span, inner, scales, beam_size)
        self.codes = codes[0]

    def _replace(self, codes, matrices, losses, tile, book, span, inner, scales, beam_size):
        og, ig, groups = self.og, self.ig, self.groups
        entries = self.codebooks[book]
        now = entries.flatten(1)[codes[:, :, tile, book].long()]  # [beams, groups, og * ig], not scaled
        scaled = (now.view(-1, groups, og, ig) * scales).view(len(codes), groups * og, ig)
        rest = self.weight - matrices
        rest[:, :, span] += scaled
        products = rest @ self.xtx[:, span]
        norms = ((entries.flatten(0, 1) @ inner).view(self.size, -1) * entries.flatten(1)).sum(1, keepdim=True)
        norms = norms * scales.view(1, groups) ** 2
        best, which = [], []
        for b in range(len(codes)):
            target = products[b].view(groups, og * ig)
            dots = torch.einsum("mg,og->mo", entries.flatten(1), target)
            dots.sub_((now[b] * target).sum(1)[None]).mul_(scales.view(1, groups))
            old = ((scaled[b] @ inner).view(groups, -1) * scaled[b].view(groups, -1)).sum(1)
            errors = losses[b, None] - 2 * dots + norms - old
            top = errors.topk(beam_size, dim=0, largest=False, sorted=False)
            best.append(top.values)
            which.append(top.indices)
        flat = torch.cat(best).topk(beam_size, dim=0, largest=False)
        source = flat.indices // beam_size
        chosen = torch.cat(which).gather(0, flat.indices)
        new_codes, new_matrices = [], []
        everyone = torch.arange(groups)
        for b in range(beam_size):
            version = codes[source[b], everyone].clone()
            version[:, tile, book] = chosen[b].int()
            new_codes.append(version)
            new_matrices.append(self.dequantize(version))  # the whole of it, as upstream
        return torch.stack(new_codes), torch.stack(new_matrices), flat.values


def aqlm(weight, xtx, epochs=1, steps_per_epoch=100, beam_size=1, **options):
    solver = Aqlm(weight, xtx, **options)
    for _ in range(epochs):
        solver.train(steps_per_epoch)
        solver.search(beam_size)
    return solver.relative_error()


def vptq_pass(weight, factor, books, block=128):
    """GPTQ over the columns, each rounded to sums of one vector of each of `books`."""
    weight, out, left = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    cols = weight.shape[1]
    for i in range(0, cols, block):
        j = min(i + block, cols)
        part, errors = weight[:, i:j].clone(), torch.zeros(len(weight), j - i)
        for k in range(j - i):
            column = part[:, k : k + 1]
            rest, value = column.reshape(-1, books[0].shape[1]), 0
            for book in books:
                vectors = book[torch.cdist(rest, book).argmin(-1)]
                value, rest = value + vectors, rest - vectors
            value = value.reshape(-1, 1)
            out[:, i + k : i + k + 1] = value
            error = (column - value) / factor[i + k, i + k]
            part[:, k + 1 :] -= error @ factor[i + k : i + k + 1, i + k + 1 : j]
            errors[:, k : k + 1] = error
        left[:, i:j] = part - out[:, i:j]
        weight[:, j:] -= errors @ factor[i:j, j:]
    return out, left


def vptq(weight, xtx, centroids=256, residual=0, length=8, kiter=100, seed=0):
    torch.manual_seed(seed)
    low = weight.min(0).values
    span = weight.max(0).values - low
    normalized = (weight - low) / span
    hessian = xtx / xtx.diagonal().mean()
    hessian = hessian + 0.01 * torch.eye(len(xtx))
    order = hessian.diagonal().argsort(descending=True)
    matrix, hessian = normalized[:, order], hessian[order][:, order]
    hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(xtx))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)

    def vectors(values):
        return values.T.reshape(-1, length)

    importance = hessian.diagonal().repeat_interleave(len(weight) // length)
    books = [k_means(vectors(matrix), centroids, kiter, importance)[0]]
    out, left = vptq_pass(matrix, factor, books)
    if residual > 0:
        books.append(k_means(vectors(left), residual, kiter, importance)[0])
        out, _ = vptq_pass(matrix, factor, books)
    found = out[:, order.argsort()] * span + low
    delta = found - weight
    return float(((delta @ xtx) * delta).sum() / ((weight @ xtx) * weight).sum())
