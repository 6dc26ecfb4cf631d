// One layer of an LSTM or a GRU over one chunk, compiled: kernels.py in C++, for a CPU.
//
// Shapes: T steps, B rows, N = T * B, D input features, H features of the layer, G gates.
//
// The matrix products and the sigmoids are those of torch. What lies between them is written as
// loops, which read and write each number once. Instead of inputs [T, B, D] a layer takes symbols
// [T, B] too, each of which stands for a one-hot vector: its product with a matrix is a row.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<Tensor>;

bool are_symbols(const Tensor& x) { return x.scalar_type() == at::kLong; }

void check_shape(const char* what, const Tensor& got, at::IntArrayRef expected,
                 const Tensor& like) {
  TORCH_CHECK(got.sizes() == expected, "got ", what, " of shape ", got.sizes(), ", expected ",
              expected);
  TORCH_CHECK(got.scalar_type() == like.scalar_type() && got.device() == like.device(), "got ",
              what, " of ", got.scalar_type(), " on ", got.device(), ", expected ",
              like.scalar_type(), " on ", like.device());
}

// The loops below read memory without asking, so that all shapes are checked first.
void check_layer(const Tensor& x, const Tensor& w_ih, const Tensor& w_hh, const MaybeTensor& b_ih,
                 const MaybeTensor& b_hh, int64_t gates) {
  TORCH_CHECK(w_hh.device().is_cpu() && w_hh.dim() == 2, "got recurrent weights of shape ",
              w_hh.sizes(), " on ", w_hh.device(), ", expected a matrix on the CPU");
  const int64_t size = w_hh.size(1);
  TORCH_CHECK(w_ih.dim() == 2, "got input weights of shape ", w_ih.sizes(), ", expected a matrix");
  check_shape("recurrent weights", w_hh, {gates * size, size}, w_hh);
  check_shape("input weights", w_ih, {gates * size, w_ih.size(1)}, w_hh);
  TORCH_CHECK(b_ih.has_value() == b_hh.has_value(), "got one bias, expected two or none");
  if (b_ih) check_shape("biases", *b_ih, {gates * size}, w_hh);
  if (b_hh) check_shape("biases", *b_hh, {gates * size}, w_hh);
  if (are_symbols(x)) {
    TORCH_CHECK(x.dim() == 2, "got symbols of shape ", x.sizes(), ", expected [T, B]");
  } else {
    TORCH_CHECK(x.dim() == 3, "got inputs of shape ", x.sizes(), ", expected [T, B, D]");
    check_shape("inputs", x, {x.size(0), x.size(1), w_ih.size(1)}, w_hh);
  }
  TORCH_CHECK(x.size(0) > 0, "got a chunk of 0 steps, expected at least 1");
}

// Deal rows to the threads of torch, some thousand numbers at least to each.
template <typename Work>
void for_rows(int64_t rows, int64_t size, const Work& work) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, size)), work);
}

// x W^T + b for all steps, [N, G H].
Tensor project(const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  const int64_t rows = x.size(0) * x.size(1), width = weight.size(0), features = weight.size(1);
  if (!are_symbols(x)) {
    const Tensor x_ND = x.reshape({rows, features});
    return bias ? at::addmm(*bias, x_ND, weight.t()) : at::mm(x_ND, weight.t());
  }
  Tensor by_symbol = at::empty({features, width}, weight.options());
  by_symbol.copy_(weight.t());
  if (bias) by_symbol.add_(*bias);
  Tensor projected = at::empty({rows, width}, weight.options());
  const Tensor symbols = x.contiguous();
  const int64_t* symbol = symbols.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "project", [&] {
    const scalar_t* from = by_symbol.const_data_ptr<scalar_t>();
    scalar_t* to = projected.mutable_data_ptr<scalar_t>();
    for_rows(rows, width, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        TORCH_CHECK_INDEX(0 <= symbol[n] && symbol[n] < features, "got symbol ", symbol[n],
                          ", expected 0 to ", features - 1, "; the layer reads ", features);
        std::copy_n(from + symbol[n] * width, width, to + n * width);
      }
    });
  });
  return projected;
}

// The gradient of the weight of project(), [G H, D].
Tensor weight_grad(const Tensor& x, const Tensor& d_NG, int64_t features) {
  if (!are_symbols(x)) return at::mm(d_NG.t(), x.reshape({-1, features}));
  const int64_t width = d_NG.size(1);
  Tensor by_symbol = at::zeros({features, width}, d_NG.options());
  const Tensor symbols = x.contiguous();
  const int64_t* symbol = symbols.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(d_NG.scalar_type(), "weight_grad", [&] {
    const scalar_t* from = d_NG.const_data_ptr<scalar_t>();
    scalar_t* sums = by_symbol.mutable_data_ptr<scalar_t>();
    for (int64_t n = 0; n < d_NG.size(0); ++n) {
      const scalar_t* __restrict row = from + n * width;
      scalar_t* __restrict sum = sums + symbol[n] * width;
      for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
    }
  });
  return by_symbol.t().contiguous();
}

// The gradient that arrived, or zeros. A tensor can be one that is zero or negative in name only.
Tensor or_zeros(const Tensor& grad, const Tensor& like) {
  if (!grad.defined() || grad._is_zerotensor()) return at::zeros_like(like);
  return grad.contiguous().resolve_neg();
}

// A saved tensor, as the loops read it: hooks of autograd may return another one than was saved.
Tensor as_saved(const Tensor& saved, at::IntArrayRef sizes) {
  TORCH_CHECK(saved.sizes() == sizes, "got a saved tensor of shape ", saved.sizes(), ", expected ",
              sizes);
  return saved.contiguous();
}

// What the backward pass needs of x. The user may write other symbols into the same tensor.
Tensor kept(const Tensor& x) { return are_symbols(x) ? x.clone() : x; }

void check_first_derivative() {
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "a compiled layer has no second derivative; leave out create_graph=True, or "
              "compiled=True");
}

// Gradients of x and of the four weights, whose places among the inputs begin at `first`; biases
// that were not given have no place. d_x is the gradient of the product with x, and d_h of the one
// with h; both [N, G H]. No two of what is returned share memory.
variable_list project_back(AutogradContext* ctx, int64_t first, const Tensor& x, const Tensor& w_ih,
                           const Tensor& entered_NH, const Tensor& d_x, const Tensor& d_h) {
  const bool has_bias = ctx->saved_data["has_bias"].toBool();
  const bool needs_x = !are_symbols(x) && ctx->needs_input_grad(0);
  Tensor db_ih, db_hh;
  if (has_bias && (ctx->needs_input_grad(first + 2) || ctx->needs_input_grad(first + 3))) {
    db_ih = d_x.sum(0);
    db_hh = d_x.is_same(d_h) ? db_ih.clone() : d_h.sum(0);
  }
  return {needs_x ? at::mm(d_x, w_ih).view(x.sizes()) : Tensor(),
          ctx->needs_input_grad(first) ? weight_grad(x, d_x, w_ih.size(1)) : Tensor(),
          ctx->needs_input_grad(first + 1) ? at::mm(d_h.t(), entered_NH) : Tensor(), db_ih, db_hh};
}

// --- LSTM: c' = f c + i g, h' = o tanh c', with the gates in the order i, f, g, o.
// tanh z = 2 sigmoid(2 z) - 1, so that one sigmoid computes all four gates of a step.

template <typename F>
void double_g(F* gates, int64_t first, int64_t last, int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    F* g = gates + (4 * b + 2) * size;
    for (int64_t j = 0; j < size; ++j) g[j] *= 2;
  }
}

// After the sigmoid of the gates: g, c', and 2 c' for the next sigmoid.
template <typename F>
void next_cell(F* __restrict gates, const F* __restrict cell, F* __restrict next,
               F* __restrict doubled, int64_t first, int64_t last, int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * size, i = 4 * at, f = i + size, g = f + size;
    for (int64_t j = 0; j < size; ++j) {
      const F new_input = 2 * gates[g + j] - 1;
      const F after = gates[f + j] * cell[at + j] + gates[i + j] * new_input;
      gates[g + j] = new_input;
      next[at + j] = after;
      doubled[at + j] = 2 * after;
    }
  }
}

// After the sigmoid of 2 c': tanh c' and h'.
template <typename F>
void next_hidden(const F* __restrict gates, F* __restrict tanh_cell, F* __restrict next,
                 int64_t first, int64_t last, int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * size, o = (4 * b + 3) * size;
    for (int64_t j = 0; j < size; ++j) {
      const F tanh_c = 2 * tanh_cell[at + j] - 1;
      tanh_cell[at + j] = tanh_c;
      next[at + j] = gates[o + j] * tanh_c;
    }
  }
}

// The gradients of one step's gates before their sigmoids, and of the cell that enters it.
template <typename F>
void lstm_step_back(const F* __restrict dy, const F* __restrict dh_after,
                    const F* __restrict dc_after, const F* __restrict gates,
                    const F* __restrict cell, const F* __restrict tanh_cell,
                    F* __restrict d_gates, F* __restrict d_cell, int64_t first, int64_t last,
                    int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * size, to_i = 4 * at, to_f = to_i + size, to_g = to_f + size,
                  to_o = to_g + size;
    for (int64_t j = 0; j < size; ++j) {
      const F i = gates[to_i + j], f = gates[to_f + j], g = gates[to_g + j], o = gates[to_o + j];
      const F tanh_c = tanh_cell[at + j], dh = dy[at + j] + dh_after[at + j];
      const F dc = dc_after[at + j] + dh * o * (1 - tanh_c * tanh_c);
      d_gates[to_i + j] = dc * g * i * (1 - i);
      d_gates[to_f + j] = dc * cell[at + j] * f * (1 - f);
      d_gates[to_g + j] = dc * i * (1 - g * g);
      d_gates[to_o + j] = dh * tanh_c * o * (1 - o);
      d_cell[at + j] = dc * f;
    }
  }
}

struct LSTMLayer : torch::autograd::Function<LSTMLayer> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& h,
                               const Tensor& c, const Tensor& /*probe_h*/,
                               const Tensor& /*probe_c*/, const Tensor& w_ih, const Tensor& w_hh,
                               const MaybeTensor& b_ih, const MaybeTensor& b_hh) {
    check_layer(x, w_ih, w_hh, b_ih, b_hh, 4);
    const int64_t steps = x.size(0), rows = x.size(1), size = w_hh.size(1), step = rows * size;
    check_shape("a hidden state", h, {rows, size}, w_hh);
    check_shape("a cell state", c, {rows, size}, w_hh);
    const MaybeTensor bias = b_ih ? MaybeTensor(b_ih->add(*b_hh)) : std::nullopt;
    Tensor gates_NG = project(x, w_ih, bias);
    Tensor hidden = at::empty({steps + 1, rows, size}, w_hh.options());
    Tensor cell = at::empty_like(hidden);
    Tensor tanh_cell = at::empty({steps, rows, size}, w_hh.options());
    hidden[0].copy_(h);
    cell[0].copy_(c);
    const Tensor recurrent = w_hh.t();
    AT_DISPATCH_FLOATING_TYPES(w_hh.scalar_type(), "lstm", [&] {
      scalar_t* gates_at = gates_NG.mutable_data_ptr<scalar_t>();
      scalar_t* cell_at = cell.mutable_data_ptr<scalar_t>();
      scalar_t* hidden_at = hidden.mutable_data_ptr<scalar_t>();
      scalar_t* tanh_at = tanh_cell.mutable_data_ptr<scalar_t>();
      for (int64_t t = 0; t < steps; ++t) {
        Tensor gates_BG = gates_NG.narrow(0, t * rows, rows), tanh_BH = tanh_cell[t];
        scalar_t* gates = gates_at + 4 * t * step;
        gates_BG.addmm_(hidden[t], recurrent);
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          double_g(gates, first, last, size);
        });
        gates_BG.sigmoid_();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          next_cell(gates, cell_at + t * step, cell_at + (t + 1) * step, tanh_at + t * step, first,
                    last, size);
        });
        tanh_BH.sigmoid_();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          next_hidden(gates, tanh_at + t * step, hidden_at + (t + 1) * step, first, last, size);
        });
      }
    });
    ctx->save_for_backward({kept(x), w_ih, w_hh, gates_NG, hidden, cell, tanh_cell});
    ctx->saved_data["has_bias"] = b_ih.has_value();
    const Tensor hidden_entered = hidden.narrow(0, 0, steps);
    const Tensor cell_entered = cell.narrow(0, 0, steps);
    ctx->mark_non_differentiable({hidden_entered, cell_entered});
    ctx->set_materialize_grads(false);
    return {hidden.narrow(0, 1, steps), hidden[steps], cell[steps], hidden_entered, cell_entered};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_first_derivative();
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w_ih = saved[1], &w_hh = saved[2];
    const int64_t steps = x.size(0), rows = x.size(1), size = w_hh.size(1), step = rows * size;
    const Tensor gates_NG = as_saved(saved[3], {steps * rows, 4 * size}),
                 hidden = as_saved(saved[4], {steps + 1, rows, size}),
                 cell = as_saved(saved[5], {steps + 1, rows, size}),
                 tanh_cell = as_saved(saved[6], {steps, rows, size});
    const Tensor dy = or_zeros(grads[0], tanh_cell), dh_end = or_zeros(grads[1], hidden[0]),
                 dc_end = or_zeros(grads[2], hidden[0]);
    Tensor d_gates_NG = at::empty_like(gates_NG), d_hidden = at::empty_like(tanh_cell),
           d_cell = at::empty_like(tanh_cell);
    AT_DISPATCH_FLOATING_TYPES(w_hh.scalar_type(), "lstm_back", [&] {
      const scalar_t* dy_at = dy.const_data_ptr<scalar_t>();
      const scalar_t* gates_at = gates_NG.const_data_ptr<scalar_t>();
      const scalar_t* cell_at = cell.const_data_ptr<scalar_t>();
      const scalar_t* tanh_at = tanh_cell.const_data_ptr<scalar_t>();
      const scalar_t* dh = dh_end.const_data_ptr<scalar_t>();
      const scalar_t* dc = dc_end.const_data_ptr<scalar_t>();
      scalar_t* d_cell_at = d_cell.mutable_data_ptr<scalar_t>();
      for (int64_t t = steps - 1; t >= 0; --t) {
        Tensor d_gates_BG = d_gates_NG.narrow(0, t * rows, rows), d_hidden_BH = d_hidden[t];
        scalar_t* d_gates = d_gates_BG.mutable_data_ptr<scalar_t>();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          lstm_step_back(dy_at + t * step, dh, dc, gates_at + 4 * t * step, cell_at + t * step,
                         tanh_at + t * step, d_gates, d_cell_at + t * step, first, last, size);
        });
        at::mm_out(d_hidden_BH, d_gates_BG, w_hh);
        dh = d_hidden_BH.const_data_ptr<scalar_t>();
        dc = d_cell_at + t * step;
      }
    });
    const Tensor entered_NH = hidden.narrow(0, 0, steps).view({steps * rows, size});
    const variable_list own = project_back(ctx, 5, x, w_ih, entered_NH, d_gates_NG, d_gates_NG);
    return {own[0], d_hidden[0].clone(), d_cell[0].clone(), d_hidden, d_cell,
            own[1], own[2],              own[3],            own[4]};
  }
};

// --- GRU: n = tanh(x_n + r h_n), h' = n + z (h - n), with the gates in the order r, z, n.

// After the product with h: the arguments of the sigmoids of r and z.
template <typename F>
void add_r_and_z(F* __restrict gates, const F* __restrict from_h, int64_t first, int64_t last,
                 int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t r = 3 * b * size;
    for (int64_t j = 0; j < 2 * size; ++j) gates[r + j] += from_h[r + j];
  }
}

// After those sigmoids: the argument of the tanh of n.
template <typename F>
void add_n(F* __restrict gates, const F* __restrict from_h, int64_t first, int64_t last,
           int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t r = 3 * b * size, n = r + 2 * size;
    for (int64_t j = 0; j < size; ++j) gates[n + j] += gates[r + j] * from_h[n + j];
  }
}

template <typename F>
void gru_next(const F* __restrict gates, const F* __restrict hidden, F* __restrict next,
              int64_t first, int64_t last, int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * size, to_z = 3 * at + size, to_n = to_z + size;
    for (int64_t j = 0; j < size; ++j) {
      const F n = gates[to_n + j];
      next[at + j] = n + gates[to_z + j] * (hidden[at + j] - n);
    }
  }
}

// The gradients of one step's products with x and with h, and what reaches h past the product.
template <typename F>
void gru_step_back(const F* __restrict dy, const F* __restrict dh_after, const F* __restrict gates,
                   const F* __restrict from_h, const F* __restrict hidden, F* __restrict d_from_x,
                   F* __restrict d_from_h, F* __restrict d_hidden, int64_t first, int64_t last,
                   int64_t size) {
  for (int64_t b = first; b < last; ++b) {
    const int64_t at = b * size, to_r = 3 * at, to_z = to_r + size, to_n = to_z + size;
    for (int64_t j = 0; j < size; ++j) {
      const F r = gates[to_r + j], z = gates[to_z + j], n = gates[to_n + j];
      const F dh = dy[at + j] + dh_after[at + j];
      const F d_n = dh * (1 - z) * (1 - n * n);
      const F d_r = d_n * from_h[to_n + j] * r * (1 - r);
      const F d_z = dh * (hidden[at + j] - n) * z * (1 - z);
      d_from_x[to_r + j] = d_r;
      d_from_h[to_r + j] = d_r;
      d_from_x[to_z + j] = d_z;
      d_from_h[to_z + j] = d_z;
      d_from_x[to_n + j] = d_n;
      d_from_h[to_n + j] = d_n * r;
      d_hidden[at + j] = dh * z;
    }
  }
}

struct GRULayer : torch::autograd::Function<GRULayer> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& h,
                               const Tensor& /*probe_h*/, const Tensor& w_ih, const Tensor& w_hh,
                               const MaybeTensor& b_ih, const MaybeTensor& b_hh) {
    check_layer(x, w_ih, w_hh, b_ih, b_hh, 3);
    const int64_t steps = x.size(0), rows = x.size(1), size = w_hh.size(1), step = rows * size;
    check_shape("a hidden state", h, {rows, size}, w_hh);
    Tensor gates_NG = project(x, w_ih, b_ih), from_h_NG = at::empty_like(gates_NG);
    Tensor hidden = at::empty({steps + 1, rows, size}, w_hh.options());
    hidden[0].copy_(h);
    const Tensor recurrent = w_hh.t();
    AT_DISPATCH_FLOATING_TYPES(w_hh.scalar_type(), "gru", [&] {
      scalar_t* hidden_at = hidden.mutable_data_ptr<scalar_t>();
      for (int64_t t = 0; t < steps; ++t) {
        Tensor gates_BG = gates_NG.narrow(0, t * rows, rows);
        Tensor from_h_BG = from_h_NG.narrow(0, t * rows, rows);
        Tensor r_and_z = gates_BG.narrow(1, 0, 2 * size), n = gates_BG.narrow(1, 2 * size, size);
        scalar_t* gates = gates_BG.mutable_data_ptr<scalar_t>();
        const scalar_t* from_h = from_h_BG.const_data_ptr<scalar_t>();
        if (b_hh) {
          at::addmm_out(from_h_BG, *b_hh, hidden[t], recurrent);
        } else {
          at::mm_out(from_h_BG, hidden[t], recurrent);
        }
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          add_r_and_z(gates, from_h, first, last, size);
        });
        r_and_z.sigmoid_();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          add_n(gates, from_h, first, last, size);
        });
        n.tanh_();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          gru_next(gates, hidden_at + t * step, hidden_at + (t + 1) * step, first, last, size);
        });
      }
    });
    ctx->save_for_backward({kept(x), w_ih, w_hh, gates_NG, from_h_NG, hidden});
    ctx->saved_data["has_bias"] = b_ih.has_value();
    const Tensor entered = hidden.narrow(0, 0, steps);
    ctx->mark_non_differentiable({entered});
    ctx->set_materialize_grads(false);
    return {hidden.narrow(0, 1, steps), hidden[steps], entered};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_first_derivative();
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w_ih = saved[1], &w_hh = saved[2];
    const int64_t steps = x.size(0), rows = x.size(1), size = w_hh.size(1), step = rows * size;
    const Tensor gates_NG = as_saved(saved[3], {steps * rows, 3 * size}),
                 from_h_NG = as_saved(saved[4], {steps * rows, 3 * size}),
                 hidden = as_saved(saved[5], {steps + 1, rows, size});
    const Tensor dy = or_zeros(grads[0], hidden.narrow(0, 1, steps));
    const Tensor dh_end = or_zeros(grads[1], hidden[0]);
    Tensor d_from_x = at::empty_like(gates_NG), d_from_h = at::empty_like(gates_NG),
           d_hidden = at::empty({steps, rows, size}, w_hh.options());
    AT_DISPATCH_FLOATING_TYPES(w_hh.scalar_type(), "gru_back", [&] {
      const scalar_t* dy_at = dy.const_data_ptr<scalar_t>();
      const scalar_t* gates_at = gates_NG.const_data_ptr<scalar_t>();
      const scalar_t* from_h_at = from_h_NG.const_data_ptr<scalar_t>();
      const scalar_t* hidden_at = hidden.const_data_ptr<scalar_t>();
      const scalar_t* dh = dh_end.const_data_ptr<scalar_t>();
      scalar_t* d_x_at = d_from_x.mutable_data_ptr<scalar_t>();
      for (int64_t t = steps - 1; t >= 0; --t) {
        Tensor d_from_h_BG = d_from_h.narrow(0, t * rows, rows), d_hidden_BH = d_hidden[t];
        scalar_t* d_h = d_from_h_BG.mutable_data_ptr<scalar_t>();
        scalar_t* dh_before = d_hidden_BH.mutable_data_ptr<scalar_t>();
        for_rows(rows, size, [&](int64_t first, int64_t last) {
          gru_step_back(dy_at + t * step, dh, gates_at + 3 * t * step, from_h_at + 3 * t * step,
                        hidden_at + t * step, d_x_at + 3 * t * step, d_h, dh_before, first, last,
                        size);
        });
        d_hidden_BH.addmm_(d_from_h_BG, w_hh);
        dh = d_hidden_BH.const_data_ptr<scalar_t>();
      }
    });
    const Tensor entered_NH = hidden.narrow(0, 0, steps).view({steps * rows, size});
    const variable_list own = project_back(ctx, 3, x, w_ih, entered_NH, d_from_x, d_from_h);
    return {own[0], d_hidden[0].clone(), d_hidden, own[1], own[2], own[3], own[4]};
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_layer(
    const Tensor& x, const Tensor& h, const Tensor& c, const Tensor& probe_h, const Tensor& probe_c,
    const Tensor& w_ih, const Tensor& w_hh, const MaybeTensor& b_ih, const MaybeTensor& b_hh) {
  const variable_list out = LSTMLayer::apply(x, h, c, probe_h, probe_c, w_ih, w_hh, b_ih, b_hh);
  return {out[0], out[1], out[2], out[3], out[4]};
}

std::tuple<Tensor, Tensor, Tensor> gru_layer(
    const Tensor& x, const Tensor& h, const Tensor& probe_h, const Tensor& w_ih, const Tensor& w_hh,
    const MaybeTensor& b_ih, const MaybeTensor& b_hh) {
  const variable_list out = GRULayer::apply(x, h, probe_h, w_ih, w_hh, b_ih, b_hh);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY(seqdni, m) {
  m.def(
      "lstm_layer(Tensor x, Tensor h, Tensor c, Tensor probe_h, Tensor probe_c, Tensor w_ih, "
      "Tensor w_hh, Tensor? b_ih, Tensor? b_hh) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      &lstm_layer);
  m.def(
      "gru_layer(Tensor x, Tensor h, Tensor probe_h, Tensor w_ih, Tensor w_hh, Tensor? b_ih, "
      "Tensor? b_hh) -> (Tensor, Tensor, Tensor)",
      &gru_layer);
}
