// Operators for onnxruntime over the same code as for torch. A session loads
// this library by `SessionOptions.register_custom_ops_library`. All tensors
// are float32 but for the routing, and lie in memory as in torch: maps are
// (N, H, W, C).
//
// All operators are in domain `mmbiformer`:
//
// RoutedAttention(q, k, v, routing; num_heads, scale): routed attention.
// Depthwise(map, weight (K*K, C), bias (C), added): depthwise convolution of a
//   map with K of 3 or 5, plus another map.
// Mlp(map, norm weight, norm bias, weight, bias, weight, bias; epsilon): the
//   map, plus norm, linear layer, GELU and linear layer of it.
// NormQkv(map, norm weight, norm bias, weight, bias; epsilon, n_win): norm,
//   padding to whole regions, and linear layer; gives queries, keys and values.
// AddLinear(map, added, weight, bias): the second map, plus a linear layer of
//   the first, which is cropped to its size.
//
// Weights of linear layers are (C_out, C_in), as in torch.

#include <cmath>
#include <memory>
#include <new>

#include "../layers.h"
#include "../routed_attention.h"
#include "interface.h"

namespace {

using namespace mmbiformer;
using namespace onnxruntime;

// Shares into which work is cut. onnxruntime does not tell how many threads it
// has; those that are done take the next share.
constexpr int64_t kShares = 16;
constexpr size_t kMaxRank = 4;
constexpr size_t kMaxInputs = 7;

// Runs function(i) for all i below `count`, by the threads of the session.
class SessionThreads {
 public:
  SessionThreads(Functions functions, const Context* context)
      : functions_(functions), context_(context) {}

  template <class Function>
  void operator()(int64_t count, const Function& function) const {
    ParallelFor::call(
        functions_, context_,
        +[](void* data, size_t i) {
          (*static_cast<const Function*>(data))(static_cast<int64_t>(i));
        },
        static_cast<size_t>(count), size_t{0},
        const_cast<void*>(static_cast<const void*>(&function)));
  }

  const int64_t threads = kShares;

 private:
  Functions functions_;
  const Context* context_;
};

// A tensor: its sides, and where it lies in memory.
struct Tensor {
  size_t rank;
  int64_t sides[kMaxRank];
  void* data;

  float* floats() const { return static_cast<float*>(data); }
  int64_t size() const {
    int64_t size = 1;
    for (size_t i = 0; i < rank; ++i) size *= sides[i];
    return size;
  }
};

// A node of the graph, with its attributes.
struct Node {
  Functions functions;
  int64_t num_heads, n_win;
  float scale, epsilon;
};

// One call of a node.
class Call {
 public:
  Call(const Node& node, Context* context)
      : node(node),
        threads(node.functions, context),
        functions_(node.functions),
        context_(context) {}

  Tensor input(size_t index) const {
    Value* value = nullptr;
    GetInput::call(functions_, context_, index, &value);
    Shape* shape = nullptr;
    GetShape::call(functions_, value, &shape);
    Tensor tensor = {};
    GetRank::call(functions_, shape, &tensor.rank);
    tensor.rank = std::min(tensor.rank, kMaxRank);
    GetSides::call(functions_, shape, &tensor.sides[0], tensor.rank);
    ReleaseShape::call(functions_, shape);
    GetData::call(functions_, value, &tensor.data);
    return tensor;
  }

  float* output(size_t index, const int64_t* sides) const {
    Value* value = nullptr;
    GetOutput::call(functions_, context_, index, sides, kMaxRank, &value);
    void* data = nullptr;
    GetData::call(functions_, value, &data);
    return static_cast<float*>(data);
  }

  const Node& node;
  const SessionThreads threads;

 private:
  Functions functions_;
  Context* context_;
};

constexpr char kMemory[] = "mmbiformer: no memory for intermediate results";
constexpr char kShape[] = "mmbiformer: the shapes of the inputs do not fit";

// Each operator has a name, its numbers of inputs and outputs, and `compute`,
// which returns an error or null.

struct RoutedAttention {
  static constexpr const char* kName = "RoutedAttention";
  static constexpr size_t kInputs = 4, kOutputs = 1;

  static const char* compute(const Call& call) {
    const Tensor q = call.input(0), k = call.input(1), v = call.input(2);
    const Tensor routing = call.input(3);
    AttentionArguments<float> args = {};
    args.images = q.sides[0];
    args.height = q.sides[1];
    args.width = q.sides[2];
    args.heads = call.node.num_heads;
    args.head_dim = q.sides[3] / std::max<int64_t>(1, args.heads);
    args.n_win = std::llround(std::sqrt(double(routing.sides[1])));
    args.topk = routing.sides[2];
    args.q_stride = args.k_stride = args.v_stride = q.sides[3];
    args.scale = call.node.scale;
    args.q = q.floats();
    args.k = k.floats();
    args.v = v.floats();
    args.routing = static_cast<const int64_t*>(routing.data);
    if (q.rank != 4 || routing.rank != 3 || q.size() != k.size() ||
        q.size() != v.size() || routing.sides[0] != args.images ||
        args.regions() != routing.sides[1] || args.n_win < 1 ||
        args.height % args.n_win || args.width % args.n_win ||
        args.head_dim % 16 || args.dim() != q.sides[3])
      return kShape;
    for (int64_t i = 0; i < routing.size(); ++i)
      if (args.routing[i] < 0 || args.routing[i] >= args.regions())
        return "mmbiformer: the routing names a region that does not exist";
    args.out = call.output(0, q.sides);
    return run<ForwardThread<float>>(args, call.threads) ? kMemory : nullptr;
  }
};

struct Depthwise {
  static constexpr const char* kName = "Depthwise";
  static constexpr size_t kInputs = 4, kOutputs = 1;

  static const char* compute(const Call& call) {
    const Tensor in = call.input(0), weight = call.input(1);
    const Tensor bias = call.input(2), added = call.input(3);
    DepthwiseArguments<float> args = {};
    args.images = in.sides[0];
    args.height = in.sides[1];
    args.width = in.sides[2];
    args.channels = in.sides[3];
    args.kernel = weight.sides[0] == 25 ? 5 : 3;
    args.weight = weight.floats();
    args.bias = bias.floats();
    args.in = in.floats();
    args.added = added.floats();
    if (in.rank != 4 || in.size() != added.size() || args.channels % 16 ||
        weight.size() != args.kernel * args.kernel * args.channels ||
        bias.size() != args.channels)
      return kShape;
    args.out = call.output(0, in.sides);
    return run_depthwise(args, call.threads) ? kMemory : nullptr;
  }
};

// Memory for the packed weights of a linear layer.
using Packed = std::unique_ptr<float[]>;

// Reads a linear layer from two inputs; without memory if they do not fit.
Linear<float> read_linear(const Call& call, size_t index, int64_t in_channels,
                          Packed& packed) {
  const Tensor weight = call.input(index), bias = call.input(index + 1);
  if (weight.rank == 2 && weight.sides[1] == in_channels &&
      bias.size() == weight.sides[0] && weight.sides[0] % 16 == 0 &&
      in_channels % 16 == 0)
    packed.reset(new (std::nothrow) float[weight.size()]);
  return {in_channels, weight.sides[0], weight.floats(), bias.floats(),
          packed.get()};
}

Norm<float> read_norm(const Call& call) {
  return {call.input(1).floats(), call.input(2).floats(), call.node.epsilon};
}

struct Mlp {
  static constexpr const char* kName = "Mlp";
  static constexpr size_t kInputs = 7, kOutputs = 1;

  static const char* compute(const Call& call) {
    const Tensor in = call.input(0);
    const int64_t channels = in.sides[3];
    Packed packed[2];
    MlpArguments<float> args = {};
    args.tokens = in.sides[0] * in.sides[1] * in.sides[2];
    args.norm = read_norm(call);
    args.first = read_linear(call, 3, channels, packed[0]);
    args.second = read_linear(call, 5, args.first.out_channels, packed[1]);
    if (in.rank != 4 || !packed[0] || !packed[1] ||
        args.second.out_channels != channels)
      return kShape;
    args.map = call.output(0, in.sides);
    if (args.map != in.data) std::copy_n(in.floats(), in.size(), args.map);
    return run_mlp(args, call.threads) ? kMemory : nullptr;
  }
};

struct AddLinear {
  static constexpr const char* kName = "AddLinear";
  static constexpr size_t kInputs = 4, kOutputs = 1;

  static const char* compute(const Call& call) {
    const Tensor in = call.input(0), added = call.input(1);
    Packed packed;
    LinearArguments<float> args = {};
    args.images = in.sides[0];
    args.in_height = in.sides[1];
    args.in_width = in.sides[2];
    args.out_height = added.sides[1];
    args.out_width = added.sides[2];
    args.parts = args.add = 1;
    args.linear = read_linear(call, 2, in.sides[3], packed);
    args.in = in.floats();
    if (in.rank != 4 || added.rank != 4 || !packed ||
        in.sides[0] != added.sides[0] ||
        args.linear.out_channels != added.sides[3])
      return kShape;
    args.out[0] = call.output(0, added.sides);
    if (args.out[0] != added.data)
      std::copy_n(added.floats(), added.size(), args.out[0]);
    return run_linear(args, call.threads) ? kMemory : nullptr;
  }
};

struct NormQkv {
  static constexpr const char* kName = "NormQkv";
  static constexpr size_t kInputs = 5, kOutputs = 3;

  static const char* compute(const Call& call) {
    const Tensor in = call.input(0);
    const int64_t channels = in.sides[3];
    const int64_t n_win = std::max<int64_t>(1, call.node.n_win);
    Packed packed;
    LinearArguments<float> args = {};
    args.images = in.sides[0];
    args.in_height = in.sides[1];
    args.in_width = in.sides[2];
    args.out_height = round_up(args.in_height, n_win);
    args.out_width = round_up(args.in_width, n_win);
    args.parts = kOutputs;
    args.norm = read_norm(call);
    args.linear = read_linear(call, 3, channels, packed);
    args.in = in.floats();
    if (in.rank != 4 || !packed ||
        args.linear.out_channels != int64_t{kOutputs} * channels)
      return kShape;
    const int64_t sides[] = {args.images, args.out_height, args.out_width,
                             channels};
    for (size_t i = 0; i < kOutputs; ++i) args.out[i] = call.output(i, sides);
    return run_linear(args, call.threads) ? kMemory : nullptr;
  }
};

template <class Operator>
struct Registered : Callbacks {
  Registered() : Callbacks() {
    version = kVersion;
    name = [](const Callbacks*) { return Operator::kName; };
    provider = [](const Callbacks*) -> const char* { return nullptr; };
    input_type = [](const Callbacks*, size_t i) -> int {
      return std::is_same<Operator, RoutedAttention>() && i == 3 ? kInt64
                                                                 : kFloat;
    };
    inputs = [](const Callbacks*) { return Operator::kInputs; };
    output_type = [](const Callbacks*, size_t) -> int { return kFloat; };
    outputs = [](const Callbacks*) { return Operator::kOutputs; };
    destroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
    input_presence = output_presence = input_memory =
        [](const Callbacks*, size_t) { return 0; };
    create_or_fail = [](const Callbacks*, Functions functions,
                        const NodeInfo* info, void** kernel) -> Status* {
      Node* node = new (std::nothrow) Node{functions};
      if (!node) return CreateStatus::call(functions, kFail, kMemory);
      *kernel = node;
      Status* status = nullptr;
      if (std::is_same<Operator, RoutedAttention>()) {
        status = GetInt::call(functions, info, "num_heads", &node->num_heads);
        if (!status)
          status = GetFloat::call(functions, info, "scale", &node->scale);
      }
      if (std::is_same<Operator, NormQkv>())
        status = GetInt::call(functions, info, "n_win", &node->n_win);
      if (std::is_same<Operator, NormQkv>() || std::is_same<Operator, Mlp>())
        if (!status)
          status = GetFloat::call(functions, info, "epsilon", &node->epsilon);
      return status;
    };
    compute_or_fail = [](void* kernel, Context* context) -> Status* {
      const Node& node = *static_cast<Node*>(kernel);
      const char* error = Operator::compute(Call(node, context));
      return error ? CreateStatus::call(node.functions, kFail, error)
                   : nullptr;
    };
  }
};

const Registered<RoutedAttention> routed_attention;
const Registered<Depthwise> depthwise;
const Registered<Mlp> mlp;
const Registered<AddLinear> add_linear;
const Registered<NormQkv> norm_qkv;
const Callbacks* const kOperators[] = {&routed_attention, &depthwise, &mlp,
                                       &add_linear, &norm_qkv};

}  // namespace

extern "C" {

// Called by onnxruntime, which asks for this name.
Status* RegisterCustomOps(Options* options, const Base* base) noexcept {
  const Functions functions = base->functions(kVersion);
  Domain* domain = nullptr;
  Status* status = CreateDomain::call(functions, "mmbiformer", &domain);
  for (const Callbacks* op : kOperators)
    if (!status)
      status = AddOperator::call(functions, domain,
                                 static_cast<const void*>(op));
  return status ? status : AddDomain::call(functions, options, domain);
}

}  // extern "C"
