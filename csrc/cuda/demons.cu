// The pyramid and the loop over iterations: only launches and copies on the caller's stream, without allocation or waiting, so
// that a CUDA graph can capture them. Launches an iteration: 1 for additive updates (a small level takes 1 in all), 2 with fluid
// smoothing, 2 + squarings for diffeomorphic updates.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>

#include "cuda/kernels.cuh"
#include "cuda/resident.cuh"
#include "cuda/tile.cuh"

namespace cxr {
namespace {

// No taps are those that change nothing.
template <class T> Taps<T> taps_of(const std::vector<double>& taps) {
  Taps<T> out{};
  out.radius = taps.empty() ? 0 : std::min<int>(int(taps.size()) - 1, max_radius);
  out.weight[0] = T(1);
  for (int j = 0; j <= out.radius && !taps.empty(); ++j) out.weight[j] = T(taps[j]);
  return out;
}

// Hands out pieces of the caller's workspace; with no memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T> T* take(size_t n) {
    T* piece = reinterpret_cast<T*>(memory_ + used_);
    used_ += (n * sizeof(T) + 255) / 256 * 256;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

template <class T> class Registration {
 public:
  Registration(const DemonsImages<T>& images, const DemonsOptions& options, void* memory, void* stream)
      : all_(images), options_(options), stream_(stream) {
    Arena arena(memory);
    const size_t size = size_t(images.batch) * images.height * images.width;
    const dim3 tiles = tile_grid(images.height, images.width, 1);
    trace_ = {images.mse, images.rms, options.total_iterations(), options.tolerance,
              arena.take<int>(images.batch), arena.take<unsigned>(images.batch),
              arena.take<double>(size_t(images.batch) * tiles.x * tiles.y * 3)};
    for (T** field : {&u_, &next_, &update_, &scratch_}) *field = arena.take<T>(2 * size);
    for (T** image : {&moving_, &fixed_, &mask_}) *image = arena.take<T>(size);
    bytes_ = arena.used();
  }

  size_t bytes() const { return bytes_; }

  void run() {
    shared_limit_ = shared_memory_limit();
    const long threads = std::max(long(all_.batch) * trace_.total, long(all_.batch));
    CXR_LAUNCH(begin<T>, dim3((threads + 255) / 256), dim3(256), 0, stream_, trace_, all_.batch);
    int last_h = 0, last_w = 0, first = 0;
    for (size_t i = 0; i < options_.shrink.size(); ++i) {
      const int h = level_size(all_.height, options_.shrink[i]), w = level_size(all_.width, options_.shrink[i]);
      start_field(i, last_h, last_w, h, w);
      level_ = {all_.moving, all_.fixed, all_.mask, h, w, options_.itk, T(options_.inverse_k)};
      if (h != all_.height || w != all_.width) {
        level_.moving = resized_image(all_.moving, moving_);
        level_.fixed = resized_image(all_.fixed, fixed_);
        if (all_.mask) level_.mask = resized_image(all_.mask, mask_);
      }
      run_level(options_.iterations[i], first);
      first += options_.iterations[i];
      last_h = h;
      last_w = w;
    }
    if (last_h == all_.height && last_w == all_.width) {
      copy_on_device(all_.displacement, u_, size_t(all_.batch) * 2 * last_h * last_w * sizeof(T), stream_);
    } else {
      resize(u_, all_.batch * 2, last_h, last_w, all_.displacement, all_.height, all_.width, true);
    }
  }

 private:
  void start_field(size_t level, int last_h, int last_w, int h, int w) {
    if (level > 0) {
      resize(u_, all_.batch * 2, last_h, last_w, next_, h, w, true);
      std::swap(u_, next_);
    } else if (all_.initial) {
      resize(all_.initial, all_.batch * 2, all_.height, all_.width, u_, h, w, true);
    } else {
      zero_on_device(u_, size_t(all_.batch) * 2 * h * w * sizeof(T), stream_);
    }
  }

  const T* resized_image(const T* image, T* out) {
    resize(image, all_.batch, all_.height, all_.width, out, level_.height, level_.width, false);
    return out;
  }

  // [planes,h,w] to [planes,new_h,new_w]; a field's values are scaled to the new pixels.
  void resize(const T* in, int planes, int h, int w, T* out, int new_h, int new_w, bool field) {
    const T sx = field ? T(double(new_w) / w) : T(1), sy = field ? T(double(new_h) / h) : T(1);
    CXR_LAUNCH(resize_columns<T>, pixel_grid(new_h, w, planes), pixel_block(), 0, stream_, in, h, w, new_h, scratch_);
    CXR_LAUNCH(resize_rows<T>, pixel_grid(new_h, new_w, planes), pixel_block(), 0, stream_, scratch_, new_h, w, new_w, sx, sy, out);
  }

  void run_level(int count, int first) {
    // ITK's classic Demons smooths before each iteration instead of after it.
    const bool before = options_.itk && options_.force == thirion && count > 0;
    const Taps<T> diffusion = taps_of<T>(options_.diffusion), fluid = taps_of<T>(options_.fluid);
    if (before) smooth(u_, diffusion, nullptr, {first, first}, nullptr, next_), std::swap(u_, next_);
    if (run_resident(diffusion, count, first, !before)) return;
    for (int i = first; i < first + count; ++i) {
      const Taps<T> taps = before && i == first + count - 1 ? taps_of<T>({}) : diffusion;
      if (options_.diffeomorphic) {
        diffeomorphic_iteration(taps, {first, i});
      } else if (!options_.fluid.empty()) {
        step(Adding::sum_smooth, 1, fluid, {first, i}, update_);
        smooth(update_, taps, nullptr, {first, i}, u_, next_);
      } else {
        step(Adding::smooth_sum, 1, taps, {first, i}, next_);
      }
      std::swap(u_, next_);
    }
  }

  // The whole level in one launch, where its images are small enough. Returns whether they were.
  bool run_resident(const Taps<T>& taps, int count, int first, bool smooth_last) {
    const int h = level_.height, w = level_.width;
    const size_t bytes = resident_bytes<T>(h, w), sums = 3 * resident_threads * sizeof(double) + sizeof(double);
    if (options_.diffeomorphic || !options_.fluid.empty() || h * w > resident_pixels || bytes + sums > shared_limit_) return false;
    const auto kernel = options_.force == two_force ? resident_level<T, two_force>
                        : options_.force == esm     ? resident_level<T, esm>
                                                    : resident_level<T, thirion>;
    CXR_LAUNCH(kernel, dim3(all_.batch), dim3(resident_threads), bytes, stream_, level_, u_, taps, first, count, smooth_last, trace_);
    return true;
  }

  bool fits_tile(const Taps<T>& taps) const {
    return taps.radius <= max_tile_radius && TileShape{taps.radius}.bytes<T>() + 3 * block_threads * sizeof(double) + 256 <= shared_limit_;
  }

  // u and its update du, times `scale`, to `out` as `adding` says.
  void step(Adding adding, T scale, const Taps<T>& taps, Clock clock, T* out) {
    if (!fits_tile(taps)) {  // the update alone, or added to u, and then the wide smoothing
      step(adding == Adding::smooth_sum ? adding : Adding::none, scale, taps_of<T>({}), clock, update_);
      return smooth(update_, taps, adding == Adding::sum_smooth ? u_ : nullptr, clock, u_, out);
    }
    const auto kernel = options_.force == two_force ? step_tile<T, two_force>
                        : options_.force == esm     ? step_tile<T, esm>
                                                    : step_tile<T, thirion>;
    CXR_LAUNCH(kernel, tile_grid(level_.height, level_.width, all_.batch), pixel_block(), TileShape{taps.radius}.bytes<T>(), stream_,
               level_, u_, adding, scale, taps, clock, trace_, out);
  }

  // out = base + field smoothed. In place only where the taps do not fit a tile, or with a base.
  void smooth(const T* field, const Taps<T>& taps, const T* base, Clock clock, const T* keep, T* out) {
    const int h = level_.height, w = level_.width;
    if (fits_tile(taps) && !base) return compose(field, nullptr, taps, clock, keep, out);
    const dim3 grid = pixel_grid(h, w, all_.batch * 2);
    CXR_LAUNCH(smooth_axis<T>, grid, pixel_block(), 0, stream_, field, nullptr, h, w, false, taps, clock, trace_.stop, nullptr, scratch_);
    CXR_LAUNCH(smooth_axis<T>, grid, pixel_block(), 0, stream_, scratch_, base, h, w, true, taps, clock, trace_.stop, keep, out);
  }

  // out = S(v + u o (Id + v))
  void compose(const T* v, const T* u, const Taps<T>& taps, Clock clock, const T* keep, T* out) {
    assert(out != v && out != u);  // blocks read what others would have overwritten
    CXR_LAUNCH(compose_tile<T>, tile_grid(level_.height, level_.width, all_.batch), pixel_block(), TileShape{taps.radius}.bytes<T>(),
               stream_, v, u, level_.height, level_.width, taps, clock, trace_.stop, keep, out);
  }

  // v = exp(du) by scaling and squaring, then u <- S(v + u o (Id + v)), to `next_`.
  void diffeomorphic_iteration(const Taps<T>& diffusion, Clock clock) {
    const Taps<T> same = taps_of<T>({});
    step(Adding::none, T(1) / T(1 << options_.squarings), taps_of<T>(options_.fluid), clock, update_);
    for (int i = 0; i < options_.squarings; ++i) {
      compose(update_, update_, same, clock, nullptr, scratch_);
      std::swap(update_, scratch_);
    }
    if (fits_tile(diffusion)) return compose(update_, u_, diffusion, clock, u_, next_);
    compose(update_, u_, same, clock, nullptr, next_);
    smooth(next_, diffusion, nullptr, clock, u_, next_);
  }

  DemonsImages<T> all_;
  const DemonsOptions& options_;
  void* stream_;
  Trace<T> trace_;
  DeviceLevel<T> level_{};
  T *u_, *next_, *update_, *scratch_;  // [B,2,H,W]; `next_` is where an iteration writes the new u
  T *moving_, *fixed_, *mask_;         // [B,H,W] of the level
  size_t bytes_, shared_limit_ = 0;
};

}  // namespace

template <class T> size_t demons_cuda_workspace(int batch, int height, int width) {
  return Registration<T>({nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, batch, height, width}, {}, nullptr, nullptr)
      .bytes();
}

template <class T>
void demons_cuda(const DemonsImages<T>& images, const DemonsOptions& options, void* workspace, void* stream) {
  Registration<T>(images, options, workspace, stream).run();
}

#define CXR_INSTANTIATE(T)                                                   \
  template size_t demons_cuda_workspace<T>(int, int, int);                   \
  template void demons_cuda<T>(const DemonsImages<T>&, const DemonsOptions&, void*, void*);
CXR_INSTANTIATE(float)
CXR_INSTANTIATE(double)

}  // namespace cxr
