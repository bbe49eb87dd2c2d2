// Classic control as gymnax has it. A state is an array of numbers, an action an array of one, and `p` are the
// environment's parameters. `step` returns the next state and the reward; `draw` has the y axis up, and `unit` pixels.
"use strict";

const clip = (x, low, high) => Math.min(Math.max(x, low), high);
const uniform = (low, high) => low + (high - low) * Math.random();
const wrapped = (x) => x - 2 * Math.PI * Math.floor((x + Math.PI) / (2 * Math.PI)); // in [-π, π)

function line(c, points, color, width) {
  c.beginPath();
  points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
  Object.assign(c, { strokeStyle: color, lineWidth: width, lineCap: "round", lineJoin: "round" });
  c.stroke();
}

function disc(c, [x, y], radius, color) {
  c.beginPath();
  c.arc(x, y, radius, 0, 2 * Math.PI);
  c.fillStyle = color;
  c.fill();
}

function cartpole([x, speed, angle, spin], [action], p) {
  const force = p.force_mag * action - p.force_mag * (1 - action);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const temp = (force + p.polemass_length * spin ** 2 * sin) / p.total_mass;
  const spun = (p.gravity * sin - cos * temp) / (p.length * (4 / 3 - (p.masspole * cos ** 2) / p.total_mass));
  const pushed = temp - (p.polemass_length * spun * cos) / p.total_mass;
  return [[x + p.tau * speed, speed + p.tau * pushed, angle + p.tau * spin, spin + p.tau * spun], 1];
}

function pendulum([angle, spin], [action], p) {
  const torque = clip(action, -p.max_torque, p.max_torque);
  const cost = wrapped(angle) ** 2 + 0.1 * spin ** 2 + 0.001 * torque ** 2;
  const spun = ((3 * p.g) / (2 * p.l)) * Math.sin(angle) + (3 / (p.m * p.l ** 2)) * torque;
  const next = clip(spin + spun * p.dt, -p.max_speed, p.max_speed);
  return [[angle + next * p.dt, next], -cost];
}

function acrobot(state, [action], p) {
  const [m1, m2, l1] = [p.link_mass_1, p.link_mass_2, p.link_length_1];
  const [c1, c2, moi, g] = [p.link_com_pos_1, p.link_com_pos_2, p.link_moi, 9.8];
  const torque = action - 1;
  const slope = ([a1, a2, w1, w2]) => {
    const d1 = m1 * c1 ** 2 + m2 * (l1 ** 2 + c2 ** 2 + 2 * l1 * c2 * Math.cos(a2)) + 2 * moi;
    const d2 = m2 * (c2 ** 2 + l1 * c2 * Math.cos(a2)) + moi;
    const phi2 = m2 * c2 * g * Math.cos(a1 + a2 - Math.PI / 2);
    const phi1 = -m2 * l1 * c2 * w2 ** 2 * Math.sin(a2) - 2 * m2 * l1 * c2 * w2 * w1 * Math.sin(a2)
      + (m1 * c1 + m2 * l1) * g * Math.cos(a1 - Math.PI / 2) + phi2;
    const dw2 = (torque + (d2 / d1) * phi1 - m2 * l1 * c2 * w1 ** 2 * Math.sin(a2) - phi2)
      / (m2 * c2 ** 2 + moi - d2 ** 2 / d1);
    return [w1, w2, -(d2 * dw2 + phi1) / d1, dw2];
  };
  const moved = (k, dt) => state.map((x, i) => x + dt * k[i]);
  const k1 = slope(state), k2 = slope(moved(k1, p.dt / 2)), k3 = slope(moved(k2, p.dt / 2)), k4 = slope(moved(k3, p.dt));
  const next = state.map((x, i) => x + (p.dt / 6) * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
  const speeds = [clip(next[2], -p.max_vel_1, p.max_vel_1), clip(next[3], -p.max_vel_2, p.max_vel_2)];
  const after = [wrapped(next[0]), wrapped(next[1]), ...speeds];
  return [after, swung(after) ? 0 : -1];
}

const swung = ([a1, a2]) => -Math.cos(a1) - Math.cos(a2 + a1) > 1;

// A car in a valley; `push` is the acceleration of an action.
function car([position, speed], push, p) {
  const next = clip(speed + push - Math.cos(3 * position) * p.gravity, -p.max_speed, p.max_speed);
  return [clip(position + next, p.min_position, p.max_position), next];
}

function mountainCar(state, [action], p) {
  const [position, speed] = car(state, (action - 1) * p.force, p);
  return [[position, position === p.min_position && speed < 0 ? 0 : speed], -1];
}

function continuousMountainCar(state, [action], p) {
  const [position, moving] = car(state, clip(action, p.min_action, p.max_action) * p.power, p);
  const speed = position >= p.goal_position && moving < 0 ? 0 : moving;
  const there = position >= p.goal_position && speed >= p.goal_velocity;
  return [[position, speed], -0.1 * action ** 2 + (there ? 100 : 0)];
}

const hill = (x) => 0.45 * Math.sin(3 * x);
const valley = {
  reset: () => [uniform(-0.6, -0.4), 0],
  observe: (state) => state,
  terminated: ([position, speed], p) => position >= p.goal_position && speed >= p.goal_velocity,
  unit: 260,
  draw(c, [position], p) {
    const at = (x) => [x + 0.3, hill(x) - 0.1];
    line(c, Array.from({ length: 91 }, (_, i) => at(p.min_position + (i / 90) * (p.max_position - p.min_position))),
      "#667788", 0.012);
    const [x, y] = at(p.goal_position);
    line(c, [[x, y], [x, y + 0.18]], "#0d8a5f", 0.012);
    disc(c, at(position).map((v, i) => v + 0.03 * i), 0.035, "#1f6feb");
  },
};

const ENVIRONMENTS = {
  "CartPole-v1": {
    reset: () => [0, 0, 0, 0].map(() => uniform(-0.05, 0.05)),
    observe: (state) => state,
    step: cartpole,
    terminated: ([x, , angle], p) => Math.abs(x) > p.x_threshold || Math.abs(angle) > p.theta_threshold_radians,
    unit: 110,
    draw(c, [x, , angle], p) {
      line(c, [[-p.x_threshold, -0.8], [p.x_threshold, -0.8]], "#667788", 0.02);
      line(c, [[x - 0.25, -0.72], [x + 0.25, -0.72]], "#1f2937", 0.2);
      line(c, [[x, -0.62], [x + 3 * p.length * Math.sin(angle), -0.62 + 3 * p.length * Math.cos(angle)]], "#d1590b", 0.09);
    },
  },
  "Pendulum-v1": {
    reset: () => [uniform(-Math.PI, Math.PI), uniform(-1, 1)],
    observe: ([angle, spin]) => [Math.cos(angle), Math.sin(angle), spin],
    step: pendulum,
    terminated: () => false,
    unit: 130,
    draw(c, [angle], p) {
      line(c, [[0, 0], [-p.l * Math.sin(angle), p.l * Math.cos(angle)]], "#d1590b", 0.12);
      disc(c, [0, 0], 0.04, "#1f2937");
    },
  },
  "Acrobot-v1": {
    reset: () => [0, 0, 0, 0].map(() => uniform(-0.1, 0.1)),
    observe: ([a1, a2, w1, w2]) => [Math.cos(a1), Math.sin(a1), Math.cos(a2), Math.sin(a2), w1, w2],
    step: acrobot,
    terminated: swung,
    unit: 75,
    draw(c, [a1, a2], p) {
      const elbow = [p.link_length_1 * Math.sin(a1), -p.link_length_1 * Math.cos(a1)];
      const tip = [elbow[0] + p.link_length_2 * Math.sin(a1 + a2), elbow[1] - p.link_length_2 * Math.cos(a1 + a2)];
      line(c, [[-2.2, p.link_length_1], [2.2, p.link_length_1]], "#0d8a5f", 0.02);
      line(c, [[0, 0], elbow, tip], "#d1590b", 0.12);
      disc(c, [0, 0], 0.08, "#1f2937");
    },
  },
  "MountainCar-v0": { ...valley, step: mountainCar },
  "MountainCarContinuous-v0": { ...valley, step: continuousMountainCar },
};
