"""EM and variational Bayes one number at a time, in double precision, from the equations.

Votes are (o, i, j, d), activations (o, i) and children (o, i), -1 for a place without a child.
Nothing is imported from the library.
"""

import itertools
import math

import numpy as np
from scipy.special import digamma


def sets_of(children, types, over):
    """The places (o, i, j) among which each child divides itself."""
    sets = {}
    for o, i in itertools.product(*map(range, children.shape)):
        for j in range(types):
            if children[o, i] >= 0:
                child = int(children[o, i])
                key = {"types": (child, o), "all": child, "positions": (child, j)}[over]
                sets.setdefault(key, []).append((o, i, j))
    return list(sets.values())


def shares(logits, children, over):
    """The softmax of logits (o, i, j) over each set."""
    c = np.zeros(logits.shape)
    for members in sets_of(children, logits.shape[-1], over):
        largest = max(logits[member] for member in members)
        total = sum(math.exp(logits[member] - largest) for member in members)
        for member in members:
            c[member] = math.exp(logits[member] - largest) / total
    return c


def first_shares(shape, children, over, start):
    return shares(np.zeros(shape), children, "types" if start == "types" else over)


def slow_em(
    votes,
    a,
    beta_u,
    beta_a,
    rounds,
    children,
    over="all",
    start="set",
    final_lambda=0.02,
    min_var=5e-4,
    min_mass=1e-7,
    damping=0.0,
):
    """Procedure 1 of Hinton et al. 2018: means, logits of the activations, couplings."""
    votes, a, beta_u, beta_a = (np.asarray(x, np.float64) for x in (votes, a, beta_u, beta_a))
    os, is_, js, ds = map(range, votes.shape)
    c = first_shares(votes.shape[:3], children, over, start)
    mean, logit = np.zeros((len(os), len(js), len(ds))), np.zeros((len(os), len(js)))
    for t in range(1, rounds + 1):
        if t > 1:
            c = shares(joint, children, over)
        joint = np.zeros(votes.shape[:3])
        for o, j in itertools.product(os, js):
            mass = sum(c[o, i, j] * a[o, i] for i in is_) + min_mass
            log_det, cost = 0.0, 0.0
            variance = np.zeros(len(ds))
            for d in ds:
                plain = sum(c[o, i, j] * a[o, i] * votes[o, i, j, d] for i in is_) / mass
                mean[o, j, d] = (1 - damping) * plain + damping * mean[o, j, d]
                squares = [(votes[o, i, j, d] - mean[o, j, d]) ** 2 for i in is_]
                spread = sum(c[o, i, j] * a[o, i] * squares[i] for i in is_)
                variance[d] = spread / mass + min_var
                log_det += math.log(2 * math.pi * variance[d])
                cost += (beta_u[j] + math.log(math.sqrt(variance[d]))) * mass
            logit[o, j] = final_lambda * (1 - 0.95**t) * (beta_a[j] - cost)
            for i in is_:
                distance = sum((votes[o, i, j, d] - mean[o, j, d]) ** 2 / variance[d] for d in ds)
                log_active = (
                    -math.log1p(math.exp(-logit[o, j])) if logit[o, j] > -700 else logit[o, j]
                )
                joint[o, i, j] = log_active - 0.5 * log_det - 0.5 * distance
    return mean, logit, c


def slow_vb(
    votes,
    a,
    rounds,
    children,
    over="all",
    start="types",
    covariance="diagonal",
    beta_u=0.0,
    beta_a=0.0,
    alpha_0=1.0,
    kappa_0=1.0,
    m_0=0.0,
    psi_0=1.0,
    nu_above_d=1.0,
):
    """Bishop 2006, equations 10.58 to 10.67: means, logits of the activations, couplings."""
    votes, a = (np.asarray(x, np.float64) for x in (votes, a))
    os, is_, js, ds = map(range, votes.shape)
    size = len(ds)
    beta_u, beta_a = (np.broadcast_to(np.asarray(x, np.float64), len(js)) for x in (beta_u, beta_a))
    c = first_shares(votes.shape[:3], children, over, start)
    mean, logit = np.zeros((len(os), len(js), size)), np.zeros((len(os), len(js)))
    for t in range(1, rounds + 1):
        if t > 1:
            c = shares(joint, children, over)
        joint = np.zeros(votes.shape[:3])
        for o in os:
            masses = [sum(c[o, i, j] * a[o, i] for i in is_) for j in js]
            for j in js:
                mass = masses[j]
                center = np.zeros(size)
                if mass > 0:
                    for i in is_:
                        center += c[o, i, j] * a[o, i] * votes[o, i, j] / mass
                kappa, nu = kappa_0 + mass, size + nu_above_d + mass
                mean[o, j] = (kappa_0 * m_0 + mass * center) / kappa
                scatter = np.eye(size) / psi_0
                for i in is_:
                    away = votes[o, i, j] - center
                    scatter += c[o, i, j] * a[o, i] * np.outer(away, away)
                scatter += kappa_0 * mass / kappa * np.outer(center - m_0, center - m_0)
                if covariance == "diagonal":
                    scatter = np.diag(np.diag(scatter))
                psi = np.linalg.inv(scatter)
                log_precision = size * math.log(2) - np.linalg.slogdet(scatter)[1]
                for d in ds:
                    log_precision += digamma((nu - d) / 2)
                log_weight = digamma(alpha_0 + mass) - digamma(sum(alpha_0 + m for m in masses))
                entropy = size / 2 * math.log(2 * math.pi * math.e) - log_precision / 2
                logit[o, j] = beta_a[j] - (math.exp(log_weight) * entropy + beta_u[j])
                for i in is_:
                    away = votes[o, i, j] - mean[o, j]
                    distance = nu * away @ psi @ away + size / kappa
                    normal = log_precision - size * math.log(2 * math.pi) - distance
                    joint[o, i, j] = log_weight + normal / 2
    return mean, logit, c
