// An accelerator that needs no hardware: its memory is host memory, every operation runs on the CPU, and operands of
// different devices are refused as CUDA refuses them.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/set_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using c10::IValue;

const c10::Device device(c10::DeviceType::PrivateUse1, 0);
const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto* memory = bytes ? std::malloc(bytes) : nullptr;
    return {memory, memory, &std::free, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* target, const void* source, size_t bytes) const override { std::memcpy(target, source, bytes); }
};

Allocator allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return device.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Device getDevice() const override { return device; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), bytes);
  }
};

const bool registered = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);

void release(void* storage) { delete static_cast<c10::Storage*>(storage); }

// A tensor on `target` over the memory of `tensor`, which it keeps alive.
Tensor over_memory_of(const Tensor& tensor, c10::Device target) {
  auto* owner = new c10::Storage(tensor.storage());
  c10::DataPtr memory(owner->mutable_data(), owner, &release, target);
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), owner->nbytes(), std::move(memory), c10::GetAllocator(target.type()), true);
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), target == device ? keys : c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return result;
}

// How often the host has waited for the device, or the device for the host.
int64_t waits = 0;

// Whether the host must read numbers of the device to go on: those numbers, or a shape that depends on them.
bool host_must_wait(const c10::OperatorHandle& op, const torch::jit::Stack& arguments) {
  const auto index = op.schema().argumentIndexWithName("indices");
  const auto& indices = arguments[arguments.size() - op.schema().arguments().size() + index.value_or(0)];
  if (!index || !indices.isOptionalTensorList())
    return op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape);
  for (const std::optional<Tensor>& each : indices.toOptionalTensorVector())
    if (each && each->defined() && each->device() == device && each->scalar_type() == at::kBool) return true;
  return false;
}

// The operands of one operation: tensors of the device and what stands for them on the CPU.
struct Operands {
  const c10::OperatorHandle& op;
  std::vector<std::pair<Tensor, Tensor>> pairs;

  [[noreturn]] void refuse(const c10::Argument& argument, const std::string& found) const {
    TORCH_CHECK(
        false, "Expected all tensors to be on the same device, but argument '", argument.name(), "' of ",
        op.schema().name(), " is on ", found, " beside tensors on ", device);
  }

  // CUDA takes indices from the CPU, and numbers in element-wise operations.
  bool allowed_on_cpu(const c10::Argument& argument, const Tensor& tensor) const {
    const auto& name = op.schema().name();
    const bool written = argument.alias_info() && argument.alias_info()->isWrite();
    if (argument.name() == "indices")
      return name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index_put", 0) == 0;
    if (tensor.dim() > 0 || written || argument.name() == "condition") return false;
    static const std::set<std::string> takes_numbers = {
        "aten::masked_fill", "aten::masked_fill_", "aten::fill_",          "aten::index_put",
        "aten::index_put_",  "aten::floor_divide", "aten::floor_divide_", "aten::_index_put_impl_"};
    return op.hasTag(at::Tag::pointwise) || takes_numbers.count(name);
  }

  Tensor on_cpu(const c10::Argument& argument, const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (tensor.device() != device) {
      if (!tensor.device().is_cpu() || !allowed_on_cpu(argument, tensor)) refuse(argument, tensor.device().str());
      return tensor;
    }
    for (const auto& [original, stand_in] : pairs)
      if (original.is_same(tensor)) return stand_in;
    pairs.emplace_back(tensor, over_memory_of(tensor, c10::kCPU));
    return pairs.back().second;
  }

  IValue on_cpu(const c10::Argument& argument, const IValue& value) {
    if (value.isTensor()) return on_cpu(argument, value.toTensor());
    if (value.isDevice() && value.toDevice().type() == device.type()) return c10::Device(c10::kCPU);
    if (value.isGenerator() && value.toGenerator().defined() && value.toGenerator().device().is_cpu())
      TORCH_CHECK(false, "Expected a '", device.type(), "' device type for generator but found 'cpu'");
    if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(on_cpu(argument, tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::make_optional(on_cpu(argument, *tensor)) : std::nullopt);
      return list;
    }
    return value;
  }

  // What the CPU has resized is resized on the device.
  void follow_resizing() {
    for (const auto& [original, stand_in] : pairs) {
      if (original.sizes() == stand_in.sizes()) continue;
      at::native::resize_impl_cpu_(original.unsafeGetTensorImpl(), stand_in.sizes(), stand_in.strides());
      over_memory_of(original, c10::kCPU).copy_(stand_in);
    }
  }

  Tensor on_device(const Tensor& tensor) const {
    if (!tensor.defined() || tensor.device() == device) return tensor;
    for (const auto& [original, stand_in] : pairs) {
      if (tensor.is_same(stand_in)) return original;
      if (!tensor.storage().is_alias_of(stand_in.storage())) continue;
      auto view = at::detail::make_tensor<c10::TensorImpl>(
          c10::TensorImpl::VIEW, c10::Storage(original.storage()), original.key_set(), tensor.dtype());
      view.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
      return view;
    }
    return over_memory_of(tensor, device);
  }

  IValue on_device(const IValue& value) const {
    if (value.isTensor()) return on_device(value.toTensor());
    if (!value.isTensorList()) return value;
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(on_device(tensor));
    return list;
  }
};

// Runs `called` on the CPU in place of `checked`.
void call(const c10::OperatorHandle& checked, const c10::OperatorHandle& called, torch::jit::Stack* stack) {
  Operands operands{checked, {}};
  const auto& arguments = checked.schema().arguments();
  const auto start = stack->size() - arguments.size();
  waits += host_must_wait(checked, *stack);
  for (size_t index = 0; index < arguments.size(); ++index)
    (*stack)[start + index] = operands.on_cpu(arguments[index], (*stack)[start + index]);
  if (arguments.size() < called.schema().arguments().size()) {
    // The gradient of a convolution: the CPU's has one argument more, the shape of the bias.
    const auto weight = (*stack)[start + 2].toTensor();
    const bool transposed = (*stack)[start + 6].toBool();
    const int64_t channels = transposed ? weight.size(1) * (*stack)[start + 8].toInt() : weight.size(0);
    stack->insert(stack->begin() + start + 3, IValue(std::vector<int64_t>{channels}));
  }
  called.callBoxed(stack);
  operands.follow_resizing();
  for (size_t index = start; index < stack->size(); ++index) (*stack)[index] = operands.on_device((*stack)[index]);
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) { call(op, op, stack); }

c10::OperatorHandle find(const char* name) { return c10::Dispatcher::singleton().findSchemaOrThrow(name, ""); }

void convolution(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call(op, find("aten::convolution"), stack);
}

void convolution_backward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call(op, find("aten::convolution_backward"), stack);
}

Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>, std::optional<c10::Device>,
    std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, keys, c10::dtype_or_default(dtype));
}

Tensor host(const Tensor& tensor) { return tensor.device() == device ? over_memory_of(tensor, c10::kCPU) : tensor; }

Tensor copy_from(const Tensor& source, const Tensor& target, bool non_blocking) {
  // A copy from the host may be queued behind what the device has yet to do.
  const bool queued = non_blocking && target.device() == device;
  waits += source.device() != target.device() && source.numel() && !queued;
  host(target).copy_(host(source));
  return target;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& target) {
  target.resize_(source.sizes());
  return copy_from(source, target, false);
}

Tensor& set_storage(
    Tensor& tensor, c10::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(tensor, source, offset, size, stride);
}

TORCH_LIBRARY(emulated, m) {
  m.def("waits() -> int", [] { return waits; });
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("set_.source_Storage", &at::native::set_);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  // As composed by PyTorch, it would warn of an output that is resized.
  m.impl("mse_loss", torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  m.impl("convolution_backward_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution_backward>());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

#define LOWER_PRECISION(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FLOAT32_RESULT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)

// The lists of CUDA.
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER_PRECISION)
  AT_FORALL_FP32(FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FLOAT32_RESULT)
  AT_FORALL_PROMOTE(WIDEST)
}

}  // namespace
