/*
 * Counts what an emulated arm64 program runs: a plugin of qemu, used by `./dev instructions`. Writes, before each line
 * the program writes, how many instructions of each class it has run: vector and floating-point arithmetic; loads and
 * stores; all others. Exact for programs of one thread, and for those only.
 *
 * Declares what it needs of qemu's plugin interface (docs/devel/tcg-plugins), version 1, because Debian has no package with
 * its header.
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_syscall_cb(uint64_t, void (*)(uint64_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                             uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
int qemu_plugin_version = 1;

enum { VECTOR, MEMORY, OTHER, CLASSES };
static uint64_t count[CLASSES];

/* By bits 28 to 25, as the Arm architecture divides its instructions: x111 and x1x0. */
static int class_of(uint32_t instruction) {
  if ((instruction >> 25 & 7) == 7) return VECTOR;
  return (instruction >> 25 & 5) == 4 ? MEMORY : OTHER;
}

static void translated(uint64_t id, struct qemu_plugin_tb *block) {
  uint64_t in_block[CLASSES] = {0};
  uint32_t instruction;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    memcpy(&instruction, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof instruction);
    in_block[class_of(instruction)]++;
  }
  for (int c = 0; c < CLASSES; c++)
    if (in_block[c]) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &count[c], in_block[c]);
  (void)id;
}

static void system_call(uint64_t id, unsigned processor, int64_t number, uint64_t file, uint64_t a, uint64_t b, uint64_t c,
                        uint64_t d, uint64_t e, uint64_t f, uint64_t g) {
  enum { WRITE = 64 };
  if (number == WRITE && file == 1)
    dprintf(1, "%" PRIu64 " %" PRIu64 " %" PRIu64 " ", count[VECTOR], count[MEMORY], count[OTHER]);
  (void)id, (void)processor, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g;
}

int qemu_plugin_install(uint64_t id, const void *info, int arguments, char **argument) {
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, system_call);
  (void)info, (void)arguments, (void)argument;
  return 0;
}
