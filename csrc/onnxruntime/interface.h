// What the operators need of onnxruntime's C interface.
//
// The interface is binary and only ever grows at its end, so a library built
// once works with all later versions: onnxruntime hands over a table of
// functions, of which an index names one, and takes a table of callbacks that
// describes an operator. Python wheels of onnxruntime have no header, and a
// wheel of this project should need none to be built.

#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxruntime {

// Version of the interface, the first with all functions below: that of
// onnxruntime 1.17.
constexpr uint32_t kVersion = 17;

// Objects of onnxruntime, which are only ever passed on.
struct Status;
struct Options;
struct Domain;
struct NodeInfo;
struct Context;
struct Value;
struct Shape;

using Functions = const void* const*;

struct Base {
  Functions (*functions)(uint32_t version);
  const char* (*version)();
};

// A function of the table, by its index and type.
template <int kIndex, class Type>
struct Function {
  template <class... Arguments>
  static auto call(Functions table, Arguments... arguments) {
    return reinterpret_cast<Type*>(const_cast<void*>(table[kIndex]))(
        arguments...);
  }
};

using CreateStatus = Function<0, Status*(int code, const char* message)>;
using CreateDomain = Function<26, Status*(const char* name, Domain**)>;
using AddOperator = Function<27, Status*(Domain*, const void* callbacks)>;
using AddDomain = Function<28, Status*(Options*, Domain*)>;
using GetData = Function<51, Status*(Value*, void** data)>;
using GetRank = Function<61, Status*(const Shape*, size_t* rank)>;
using GetSides = Function<62, Status*(const Shape*, int64_t*, size_t rank)>;
using GetShape = Function<65, Status*(const Value*, Shape**)>;
using GetFloat = Function<85, Status*(const NodeInfo*, const char*, float*)>;
using GetInt = Function<86, Status*(const NodeInfo*, const char*, int64_t*)>;
using GetInput = Function<90, Status*(const Context*, size_t, Value**)>;
using GetOutput = Function<91, Status*(Context*, size_t, const int64_t* sides,
                                       size_t rank, Value**)>;
using ReleaseShape = Function<99, void(Shape*)>;
// Calls task(data, i) for all i below `count`, on the threads of the session.
using ParallelFor = Function<274, Status*(const Context*,
                                          void (*task)(void* data, size_t i),
                                          size_t count, size_t batches,
                                          void* data)>;

constexpr int kFail = 1;
enum Type { kFloat = 1, kInt64 = 7 };

// The callbacks of an operator, in onnxruntime's order.
struct Callbacks {
  uint32_t version;
  void* (*create)(const Callbacks*, Functions, const NodeInfo*);
  const char* (*name)(const Callbacks*);
  const char* (*provider)(const Callbacks*);
  int (*input_type)(const Callbacks*, size_t index);
  size_t (*inputs)(const Callbacks*);
  int (*output_type)(const Callbacks*, size_t index);
  size_t (*outputs)(const Callbacks*);
  void (*compute)(void* kernel, Context*);
  void (*destroy)(void* kernel);
  int (*input_presence)(const Callbacks*, size_t index);
  int (*output_presence)(const Callbacks*, size_t index);
  int (*input_memory)(const Callbacks*, size_t index);
  // Of operators with a variable number of inputs or outputs.
  int (*variadic[4])(const Callbacks*);
  Status* (*create_or_fail)(const Callbacks*, Functions, const NodeInfo*,
                            void** kernel);
  Status* (*compute_or_fail)(void* kernel, Context*);
  // Callbacks of later versions, which may be absent.
  const void* others[8];
};

}  // namespace onnxruntime
